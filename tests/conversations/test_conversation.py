"""A conversation is a tree of messages, of which one path is shown; editing and answering again lose nothing."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field

import pytest

from modules.conversations.conversation import ROOT, Conversation, new_id
from modules.conversations.errors import MessageNotFound
from modules.conversations.file_format import from_json, to_bytes


def conversation(*texts: str) -> Conversation:
    made = Conversation("id")
    for position, text in enumerate(texts):
        made.add("assistant" if position % 2 else "user", text)
    return made


def shown(conversation: Conversation) -> list[str]:
    return [message.content for message in conversation.path()]


def id_of(conversation: Conversation, content: str) -> str:
    return next(message.id for message in conversation.messages.values() if message.content == content)


def test_messages_follow_each_other() -> None:
    made = conversation("q1", "a1", "q2")
    assert shown(made) == ["q1", "a1", "q2"]
    assert [message.role for message in made.path()] == ["user", "assistant", "user"]
    assert shown(Conversation("id")) == []
    assert [message.content for message in made.path(id_of(made, "a1"))] == ["q1", "a1"]


def test_another_answer_is_a_version_of_the_first_one() -> None:
    made = conversation("q1", "a1", "q2", "a2")
    made.add("assistant", "b1", parent=id_of(made, "q1"))
    assert shown(made) == ["q1", "b1"]
    assert made.versions(made.current) == [id_of(made, "a1"), id_of(made, "b1")]


def test_selecting_a_version_shows_what_followed_it_last() -> None:
    made = conversation("q1", "a1", "q2", "a2")
    made.add("assistant", "c2", parent=id_of(made, "q2"))
    made.add("user", "other q1", parent=ROOT)
    made.select(id_of(made, "q1"))
    assert shown(made) == ["q1", "a1", "q2", "c2"]
    made.select(id_of(made, "a2"))
    made.select(id_of(made, "other q1"))
    made.select(id_of(made, "q1"))
    assert shown(made) == ["q1", "a1", "q2", "a2"]


def test_an_edit_in_place_keeps_what_follows() -> None:
    made = conversation("q1", "a1", "q2", "a2")
    made.replace(id_of(made, "a1"), content="better", edited=7.0)
    assert shown(made) == ["q1", "better", "q2", "a2"]


def test_what_follows_a_removed_message_moves_up() -> None:
    made = conversation("q1", "a1", "q2", "a2")
    made.remove(id_of(made, "a1"))
    assert shown(made) == ["q1", "q2", "a2"]
    made.remove(id_of(made, "a2"))
    made.remove(id_of(made, "q1"))
    assert shown(made) == ["q2"]
    made.remove(id_of(made, "q2"))
    assert made.messages == {} and made.current == ROOT and made.shown == {}


def test_a_removed_version_takes_with_it_what_follows_and_its_neighbor_is_shown() -> None:
    made = conversation("q1", "a1", "q2", "a2")
    for text in ("b1", "c1"):
        made.add("assistant", text, parent=id_of(made, "q1"))
    made.select(id_of(made, "b1"))
    made.remove(id_of(made, "b1"))
    assert shown(made) == ["q1", "a1", "q2", "a2"]
    made.remove(id_of(made, "a1"))
    assert shown(made) == ["q1", "c1"] and len(made.messages) == 2


def test_the_beginning_of_the_models_memory_moves_to_the_next_message() -> None:
    made = conversation("q1", "a1", "q2")
    made.dropped_until = id_of(made, "a1")
    made.remove(id_of(made, "a1"))
    assert made.dropped_until == id_of(made, "q2")
    made.remove(id_of(made, "q2"))
    assert made.dropped_until == ""
    made.dropped_until = made.add("assistant", "a1").id
    made.add("user", "version", parent=ROOT)
    made.remove(id_of(made, "q1"))
    assert made.dropped_until == ""


def test_a_message_that_does_not_exist_is_refused(subtests: pytest.Subtests) -> None:
    made = conversation("q1")
    before = made.copy()
    actions = {
        "add": lambda: made.add("user", "text", parent="missing"),
        "replace": lambda: made.replace("missing", content=""),
        "select": lambda: made.select("missing"),
        "remove": lambda: made.remove("missing"),
        "path": lambda: made.path("missing"),
        "versions": lambda: made.versions("missing"),
    }
    for name, action in actions.items():
        with subtests.test(name), pytest.raises(MessageNotFound):
            action()
    assert made == before


def test_a_copy_is_independent() -> None:
    made = conversation("q1", "a1")
    copy = made.copy()
    copy.add("user", "q2")
    copy.remove(id_of(made, "q1"))
    assert shown(made) == ["q1", "a1"] and shown(copy) == ["a1", "q2"]


def test_a_branch_has_one_path() -> None:
    made = conversation("q1", "a1", "q2", "a2")
    made.add("assistant", "b1", parent=id_of(made, "q1"))
    made.pinned, made.rev, made.system = True, 5, "Be brief."
    branch = made.branch("other", id_of(made, "q2"))
    assert shown(branch) == ["q1", "a1", "q2"] and len(branch.messages) == 3
    assert (branch.id, branch.rev, branch.pinned, branch.system) == ("other", 0, False, "Be brief.")
    branch.remove(branch.current)
    assert shown(made) == ["q1", "b1"] and len(made.messages) == 5


def test_thousands_of_messages_are_no_problem() -> None:
    made = conversation("first")
    made.add("user", "other")
    for number in range(5_000):
        made.add("user" if number % 2 else "assistant", str(number))
    made.add("assistant", "version", parent=made.messages[made.current].parent)
    assert len(from_json("id", json.loads(to_bytes(made))).path()) == 5_002
    made.add("user", "second", parent=ROOT)
    made.remove(id_of(made, "first"))
    assert shown(made) == ["second"]


def test_ids_of_conversations_differ_within_a_second() -> None:
    assert len({new_id(0.0) for _ in range(20)}) > 15
    assert len(new_id()) == len("20261129-18-40-36-7000")


@dataclass
class Node:
    """A simple model of a message: what follows it, and the position of what is shown of that."""

    id: str
    children: list[Node] = field(default_factory=list)
    chosen: int = 0

    def path(self) -> list[Node]:
        """Return the nodes that are shown, this one first."""
        return [self, *(self.children[self.chosen].path() if self.children else [])]

    def all(self) -> list[tuple[Node, Node]]:
        """Return all nodes below, each after its parent."""
        return [pair for child in self.children for pair in [(self, child), *child.all()]]

    def remove(self, child: Node) -> None:
        position = self.children.index(child)
        if len(self.children) == 1:
            self.children, self.chosen = child.children, child.chosen
            return
        del self.children[position]
        if self.chosen == position:
            self.chosen = max(0, position - 1)
        elif self.chosen > position:
            self.chosen -= 1

    def show(self, node: Node) -> bool:
        """Choose the children that lead to `node`; return whether it is this one or one below."""
        for position, child in enumerate(self.children):
            if child.show(node):
                self.chosen = position
                return True
        return self is node


@pytest.mark.parametrize("seed", range(20))
def test_random_edits_give_the_tree_that_a_simple_model_gives(seed: int) -> None:
    source = random.Random(seed)
    real, model = Conversation("id"), Node(ROOT)
    for step in range(60):
        pairs = model.all()
        action = source.choice(["send", "send", "fork", "select", "remove", "branch"] if pairs else ["send"])
        parent, node = source.choice(pairs) if pairs else (model, model)
        if action in ("send", "fork"):
            after = model.path()[-1] if action == "send" else parent
            added = Node(real.add("user", str(step), None if action == "send" else after.id).id)
            after.children.append(added)
            model.show(added)
        elif action == "select":
            real.select(node.id)
            model.show(node)
        elif action == "remove":
            real.remove(node.id)
            parent.remove(node)
        else:
            expected = [message.id for message in real.path(node.id)]
            assert list(real.branch("other", node.id).messages) == expected
        assert [message.id for message in real.path()] == [node.id for node in model.path()[1:]]
        assert real.messages.keys() == {child.id for _, child in model.all()}
        for _, child in [(None, model), *model.all()]:
            assert real.children(child.id) == [following.id for following in child.children]
        assert from_json("id", json.loads(to_bytes(real))) == real
