"""A text, the tokens that a model has written into it, and undo and redo."""

from __future__ import annotations

import random

import pytest

from modules.core.events import Logprob
from modules.notebook.errors import NothingToRedo, NothingToRegenerate, NothingToUndo, PartOfCharacter, TokenChanged
from modules.notebook.notebook import Notebook, Passage, State, Token, continued, picked, regenerated


def token(text: str, id: int = 0, **fields: object) -> Token:
    return Token(id or ord(text[:1] or "?"), text, -0.5, **fields)


def passage(start: int, *texts: str) -> Passage:
    return Passage(start, tuple(map(token, texts)))


def written(state: State) -> list[str]:
    """Return what the text has in the places of all passages, after checking that their tokens say the same."""
    found = []
    for one in state.passages:
        said = "".join(part.text for part in one.tokens)
        assert state.text[one.start : one.end] == said
        found.append(said)
    return found


GENERATED = State("Once upon a time", (passage(5, "upon", " a", " time"),), (5, 16))


def test_typing_behind_a_passage_keeps_its_tokens_and_typing_before_it_drops_them() -> None:
    for text, kept in (
        ("Once upon a time, there", ["upon a time"]),
        ("Once upon a long time", ["upon a"]),
        ("Once upXn a time", []),
        ("Twice upon a time", []),
        ("Once upon", ["upon"]),
        ("", []),
    ):
        assert written(GENERATED.typed(text)) == kept, text


def test_text_that_is_filled_in_depends_on_what_is_behind_it_too() -> None:
    state = State("a bc d", (Passage(2, (token("b"), token("c")), fills=True),), (2, 4))
    assert written(state) == ["bc"] and written(state.typed("a bc d!")) == []


def test_the_place_of_the_last_generation_follows_what_is_typed_around_it() -> None:
    for text, last in (
        ("Once upon a time, there", "upon a time"),
        ("So, once upon a time", "upon a time"),
        ("Once upon one time", "upon one time"),
        ("Once ", ""),
    ):
        start, end = GENERATED.typed(text).last
        assert text[start:end] == last
    assert GENERATED.typed("So, once upon a time. Then").last is None, "one edit on both sides"


def test_a_passage_is_cut_before_a_character_that_would_be_incomplete() -> None:
    parts = (token("a"), token("", 1), token("", 2, inner=True), token("你", 3, inner=True), token("b"))
    whole = Passage(0, parts)
    assert [one.text for one in whole.until(1).tokens] == ["a"]
    assert [one.id for one in whole.until(2).tokens] == [97, 1, 2, 3]
    assert [one.text for one in Passage(0, (token("a"), token("", 9), token("b"))).until(1).tokens] == ["a", ""]


def test_generation_goes_on_with_the_tokens_that_are_there() -> None:
    at_end = continued(GENERATED, 16)
    assert [one.text for one in at_end.passage.tokens] == ["upon", " a", " time"]
    inside = continued(GENERATED, 11)
    assert (inside.before, inside.after) == ("Once upon a", " time")
    assert [one.text for one in inside.passage.tokens] == ["upon", " a"]
    between = continued(GENERATED, 13)
    assert between.passage == Passage(13, ()) and [one.end for one in between.others] == [11]
    state = inside.state(" dark", (token(" dark"),))
    assert state.text == "Once upon a dark time" and written(state) == ["upon a dark"] and state.last == (11, 16)


def test_regenerating_replaces_the_last_generation_and_keeps_what_was_typed_behind_it() -> None:
    again = regenerated(GENERATED.typed("Once upon a time. Then"))
    assert (again.before, again.after) == ("Once ", ". Then")
    with pytest.raises(NothingToRegenerate):
        regenerated(State("typed"))


def test_a_picked_token_replaces_everything_that_the_model_wrote_from_there_on() -> None:
    other = Logprob(" an", -1.5, 77)
    tokens = (token("upon"), token(" a", candidates=(other,)), token(" time"))
    state = State("Once upon a time. Typed", (Passage(5, tokens),), (5, 16))
    chosen = picked(state, 5, 1, 77)
    assert (chosen.before, chosen.after) == ("Once upon an", ". Typed")
    assert [(one.id, one.text, one.logprob) for one in chosen.passage.tokens][1:] == [(77, " an", -1.5)]
    kept = picked(state, 5, 1, tokens[1].id)
    assert kept.before == "Once upon a", "the token itself can be picked, to write anew from there"
    for position, number, candidate in ((5, 1, 78), (5, 3, 77), (4, 1, 77), (5, -1, 77)):
        with pytest.raises(TokenChanged):
            picked(state, position, number, candidate)


def test_a_part_of_a_character_cannot_be_picked() -> None:
    parts = (token("", 1, candidates=(Logprob("\ufffd", -1.0, 5),)), token("你", 2, inner=True))
    for number, candidate in ((0, 5), (0, 1), (1, 2)):
        with pytest.raises(PartOfCharacter):
            picked(State("你", (Passage(0, parts),)), 0, number, candidate)


def test_undo_and_redo_lead_to_the_states_that_were() -> None:
    chance = random.Random(19)
    notebook, undo, redo = Notebook("x"), [], []
    for _ in range(400):
        before = notebook.state
        action = chance.choice(("type", "type", "generate", "generate", "undo", "redo"))
        if action == "type":
            at, end = sorted(chance.choices(range(len(before.text) + 1), k=2))
            notebook = notebook.typed(before.text[:at] + chance.choice(("", "x", "yz\n")) + before.text[end:])
        elif action == "generate":
            start = continued(before, chance.randint(0, len(before.text)))
            tokens = tuple(token(chance.choice(("a", "bc", " d"))) for _ in range(chance.randint(1, 3)))
            notebook = notebook.changed(start.state("".join(one.text for one in tokens), tokens))
            undo.append(before)
            redo.clear()
        elif action == "undo" and undo:
            redo.append(before)
            notebook = notebook.undone()
            assert notebook.state == undo.pop()
        elif action == "redo" and redo:
            undo.append(before)
            notebook = notebook.redone()
            assert notebook.state == redo.pop()
        written(notebook.state)
        assert (len(notebook.undo), len(notebook.redo)) == (len(undo), len(redo))
    assert len(undo) > 20


def test_without_a_generation_there_is_nothing_to_undo_or_redo() -> None:
    for action, error in ((Notebook.undone, NothingToUndo), (Notebook.redone, NothingToRedo)):
        with pytest.raises(error):
            action(Notebook("x", State("typed")))


def test_where_tokens_are_not_known_the_generation_can_still_be_written_anew() -> None:
    state = continued(State("a"), 1).state("bc", None)
    assert (state.text, state.passages, state.last) == ("abc", (), (1, 3))
