"""Answers are written into conversations whether or not anybody watches."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.catalog.catalog import Catalog
from modules.chat import run as run_module
from modules.chat.errors import ConversationBusy, NothingToAnswer
from modules.chat.run import ReplyRequest, RunState
from modules.chat.runs import Runs
from modules.chat.templates import ChatTemplates
from modules.conversations.conversation import Conversation
from modules.conversations.errors import MessageNotFound, StaleConversation, VisitorMemoryFull
from modules.conversations.store import ConversationStore
from modules.core.errors import WebUIError
from modules.core.events import Json
from modules.core.worker_errors import WorkerDied
from modules.loaders import generation_settings
from modules.loaders.load_settings import resolve
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from tests.conftest import LLAMA
from tests.support import echo_plans
from tests.support.dialogues import make_prompts, write_character
from tests.support.echo_plans import wait_until

PARAMS: dict[str, Json] = generation_settings.resolve({"max_new_tokens": 10})


@pytest.fixture(scope="module")
def manager() -> Iterator[ModelManager]:
    manager = ModelManager()
    echo_plans.load(manager)
    yield manager
    manager.unload()


@pytest.fixture
def model(manager: ModelManager) -> LoadedModel:
    """A model that answers with the words of its prompt, and obeys some of them: see tests/support/echo.py."""
    return manager.current


@pytest.fixture
def store(tmp_path: Path) -> ConversationStore:
    return ConversationStore(tmp_path / "logs")


@pytest.fixture(scope="module")
def templates() -> Iterator[ChatTemplates]:
    templates = ChatTemplates()
    yield templates
    templates.close()


@pytest.fixture
def runs(templates: ChatTemplates, tmp_path: Path) -> Iterator[Runs]:
    runs = Runs(make_prompts(tmp_path, templates))
    yield runs
    runs.close()


def send(text: str, **fields: Json) -> ReplyRequest:
    return ReplyRequest("send", PARAMS, text=text, **fields)


def finish(runs: Runs, store: ConversationStore, state: RunState, seconds: float = 5) -> Conversation:
    wait_until(lambda: runs.state(store, state.conversation) is None, seconds)
    return store.read(state.conversation)


def test_a_question_to_a_new_conversation_is_stored_with_its_answer(
    runs: Runs, store: ConversationStore, model: LoadedModel
) -> None:
    state = runs.start(store, "", send("apple"), model, Conversation("", system="Be brief."))
    conversation = finish(runs, store, state)
    question, answer = conversation.path()
    assert (question.role, question.content, conversation.system) == ("user", "apple", "Be brief.")
    assert (answer.id, answer.role, answer.incomplete) == (state.message, "assistant", False)
    assert "Be brief." in answer.content and "apple" in answer.content
    assert answer.receipt["tokens"]["completion"] > 0
    assert b"apple" in store.blobs.get(answer.receipt["prompt_sha256"])


def test_answering_again_and_editing_add_versions(runs: Runs, store: ConversationStore, model: LoadedModel) -> None:
    first = runs.start(store, "", send("apple"), model)
    finish(runs, store, first)
    second = runs.start(store, first.conversation, ReplyRequest("regenerate", PARAMS, message=first.message), model)
    conversation = finish(runs, store, second)
    assert conversation.versions(first.message) == [first.message, second.message]
    question = conversation.path()[0]
    edit = ReplyRequest("edit", PARAMS, message=question.id, text="pear")
    conversation = finish(runs, store, runs.start(store, first.conversation, edit, model))
    assert conversation.path()[0].content == "pear"
    assert "pear" in conversation.path()[1].content
    assert len(conversation.versions(question.id)) == 2
    assert len(conversation.messages) == 5


def test_continuing_keeps_what_was_written_byte_for_byte(
    runs: Runs, store: ConversationStore, model: LoadedModel
) -> None:
    conversation = Conversation("")
    conversation.add("user", "apple")
    answer = conversation.add("assistant", "  pear,\n\n plum \n")
    id = store.add(conversation).id
    state = runs.start(store, id, ReplyRequest("continue", PARAMS, message=answer.id), model)
    continued = finish(runs, store, state).message(answer.id).content
    assert continued.startswith("  pear,\n\n plum \n") and len(continued) > len(answer.content)


def test_an_answer_that_cannot_be_continued_stays_as_it_was(
    runs: Runs, store: ConversationStore, model: LoadedModel
) -> None:
    conversation = Conversation("")
    conversation.add("user", "word " * 3000)
    answer = conversation.add("assistant", "pear", receipt={"seed": 1})
    id = store.add(conversation).id
    state = runs.start(store, id, ReplyRequest("continue", PARAMS, message=answer.id), model)
    after = finish(runs, store, state).message(answer.id)
    failure = runs.failure(store, id)
    assert failure is not None and isinstance(failure.error, WebUIError)
    assert after == answer


def test_an_answer_starts_with_the_text_that_was_asked_for(
    runs: Runs, store: ConversationStore, model: LoadedModel
) -> None:
    state = runs.start(store, "", send("apple", start_with="Well, "), model)
    assert finish(runs, store, state).path()[1].content.startswith("Well, ")


def test_a_thought_is_kept_apart_from_the_answer(runs: Runs, store: ConversationStore, model: LoadedModel) -> None:
    state = runs.start(store, "", send("apple", start_with="<think>plum</think>pear "), model)
    answer = finish(runs, store, state).path()[1]
    assert answer.reasoning == "plum"
    assert answer.content.startswith("pear ")


def test_a_conversation_has_one_run_at_a_time_which_can_be_stopped(
    runs: Runs, store: ConversationStore, model: LoadedModel
) -> None:
    state = runs.start(store, "", send("slow count 1000"), model)
    wait_until(lambda: (runs.state(store, state.conversation) or state).tokens > 3)
    with pytest.raises(ConversationBusy):
        runs.start(store, state.conversation, send("pear"), model)
    assert runs.running(store) == {state.conversation}
    runs.stop(store, state.conversation)
    conversation = finish(runs, store, state)
    assert len(conversation.messages) == 2, "the refused question has left nothing"
    answer = conversation.message(state.message)
    assert "0 1" in answer.content and not answer.incomplete
    assert answer.receipt["reason"] == "cancelled"


def test_a_second_conversation_waits_for_the_first_and_says_so(
    runs: Runs, store: ConversationStore, model: LoadedModel
) -> None:
    first = runs.start(store, "", send("slow count 1000"), model)
    wait_until(lambda: (runs.state(store, first.conversation) or first).tokens > 0)
    second = runs.start(store, "", send("apple"), model)
    wait_until(lambda: (runs.state(store, second.conversation) or second).phase == "waiting")
    waiting = runs.state(store, second.conversation)
    assert waiting is not None and waiting.position == 1
    runs.stop(store, first.conversation)
    assert "apple" in finish(runs, store, second).path()[-1].content


def test_what_is_written_is_saved_while_it_is_written(
    runs: Runs, store: ConversationStore, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "SAVE_SECONDS", 0.1)
    state = runs.start(store, "", send("slow count 1000"), model)
    wait_until(lambda: "0 1" in store.read(state.conversation).message(state.message).content)
    assert store.read(state.conversation).message(state.message).incomplete
    runs.stop(store, state.conversation)


def test_what_was_dropped_stays_dropped_until_there_is_more_room(
    runs: Runs, store: ConversationStore, model: LoadedModel
) -> None:
    room = model.info.context_length - PARAMS["max_new_tokens"]
    for dropped_room, expected in ((room, False), (room - 1, True)):
        conversation = Conversation("", dropped_room=dropped_room)
        conversation.add("user", "apple")
        conversation.add("assistant", "pear")
        conversation.dropped_until = conversation.add("user", "plum").id
        conversation.add("assistant", "fig")
        id = store.add(conversation).id
        answer = finish(runs, store, runs.start(store, id, send("quince"), model)).path()[-1]
        prompt = store.blobs.get(answer.receipt["prompt_sha256"]).decode()
        assert ("apple" in prompt) == expected and "plum" in prompt
        assert bool(store.read(id).dropped_until) != expected


def test_a_long_conversation_is_shortened_and_the_first_message_that_is_left_is_noted(
    runs: Runs, store: ConversationStore, model: LoadedModel
) -> None:
    conversation = Conversation("")
    for number in range(8):
        conversation.add("user", f"question{number} " + "word " * 3)
        conversation.add("assistant", "answer")
    id = store.add(conversation).id
    changed = finish(runs, store, runs.start(store, id, send("quince"), model))
    first = changed.message(changed.dropped_until)
    prompt = store.blobs.get(changed.path()[-1].receipt["prompt_sha256"]).decode()
    assert first.content.split()[0] in prompt and "question0" not in prompt
    assert changed.dropped_room == model.info.context_length - PARAMS["max_new_tokens"]


def test_the_receipt_of_a_stopped_answer_tells_its_prompt_which_may_have_been_shortened(
    runs: Runs, store: ConversationStore, model: LoadedModel
) -> None:
    conversation = Conversation("")
    for number in range(4):
        conversation.add("user", f"question{number}")
        conversation.add("assistant", "answer")
    id = store.add(conversation).id
    state = runs.start(store, id, send("slow count 1000"), model)
    wait_until(lambda: (runs.state(store, id) or state).tokens > 0)
    runs.stop(store, id)
    slip = finish(runs, store, state).path()[-1].receipt
    prompt = store.blobs.get(slip["prompt_sha256"]).decode()
    assert (slip["reason"], slip["tokens"]["prompt"]) == ("cancelled", len(prompt.split()))


def test_a_stopped_answer_without_text_leaves_the_question_alone(
    runs: Runs, store: ConversationStore, model: LoadedModel
) -> None:
    state = runs.start(store, "", send("held"), model)
    runs.stop(store, state.conversation)
    model.ask("release")
    conversation = finish(runs, store, state)
    assert [message.role for message in conversation.path()] in (["user"], ["user", "assistant"])


def test_a_failed_answer_is_reported_and_what_was_written_stays(
    runs: Runs, store: ConversationStore, model: LoadedModel
) -> None:
    state = runs.start(store, "", send("apple fail"), model)
    conversation = finish(runs, store, state)
    failure = runs.failure(store, state.conversation)
    assert failure is not None and isinstance(failure.error, WebUIError)
    assert "the echo engine will not" in str(failure.error)
    answer = conversation.message(state.message)
    assert "apple" in answer.content and answer.incomplete
    edit = ReplyRequest("edit", PARAMS, text="slow count 200", message=state.message)
    again = runs.start(store, state.conversation, edit, model)
    assert runs.failure(store, state.conversation) is None, "a new run forgets the error of the last one"
    runs.stop(store, again.conversation)
    finish(runs, store, again)


def test_an_answer_that_could_not_be_saved_is_reported(
    runs: Runs, model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.conversations.folder.MAX_MEMORY_BYTES", 1500)
    store = ConversationStore(None)
    state = runs.start(store, "", send("count 500"), model)
    conversation = finish(runs, store, state)
    failure = runs.failure(store, state.conversation)
    assert failure is not None and isinstance(failure.error, VisitorMemoryFull) and failure.phase == "ended"
    assert [message.content for message in conversation.path()] == ["count 500", ""]


def test_a_worker_that_dies_leaves_the_answer_as_far_as_it_was_written(runs: Runs, store: ConversationStore) -> None:
    manager = ModelManager()
    state = runs.start(store, "", send("slow apple kill"), echo_plans.load(manager))
    answer = finish(runs, store, state).message(state.message)
    manager.unload()
    failure = runs.failure(store, state.conversation)
    assert failure is not None and isinstance(failure.error, WorkerDied)
    assert "apple" in answer.content and answer.incomplete


def test_what_cannot_be_answered_changes_nothing(runs: Runs, store: ConversationStore, model: LoadedModel) -> None:
    conversation = Conversation("")
    greeting = conversation.add("assistant", "Hello!")
    question = conversation.add("user", "apple")
    stored = store.add(conversation)
    for request, error in (
        (send("  \n"), NothingToAnswer),
        (ReplyRequest("regenerate", PARAMS, message=greeting.id), NothingToAnswer),
        (ReplyRequest("continue", PARAMS, message="absent"), MessageNotFound),
        (ReplyRequest("continue", PARAMS, message=question.id), NothingToAnswer),
        (ReplyRequest("edit", PARAMS, message=question.id, text=" \n"), NothingToAnswer),
        (send("apple", seen=99), StaleConversation),
    ):
        with pytest.raises(error):
            runs.start(store, stored.id, request, model)
    with pytest.raises(NothingToAnswer):
        runs.start(store, "", send(""), model)
    assert store.read(stored.id) == stored
    assert len(store.list()) == 1
    assert runs.running(store) == set()


def test_an_answer_of_a_deleted_conversation_ends(runs: Runs, store: ConversationStore, model: LoadedModel) -> None:
    state = runs.start(store, "", send("slow count 1000"), model)
    store.delete(state.conversation)
    runs.stop(store, state.conversation)
    wait_until(lambda: not runs.running(store))
    assert store.list() == [] and store.count_deleted() == 1


# -- characters --------------------------------------------------------------------------------------------------------


def talk_with_mia(store: ConversationStore, folder: Path, *texts: str, mode: str = "chat") -> str:
    write_character(folder, "mia", name="Mia", context="Cat.")
    conversation = Conversation("", mode=mode, character="mia")
    for index, text in enumerate(texts):
        conversation.add(("user", "assistant")[index % 2], text)
    return store.add(conversation).id


def test_an_answer_of_a_character_is_stored_without_its_name(
    runs: Runs, store: ConversationStore, model: LoadedModel, tmp_path: Path
) -> None:
    id = talk_with_mia(store, tmp_path)
    answer = finish(runs, store, runs.start(store, id, send("Mia: Mia: purr"), model)).path()[-1]
    prompt = store.blobs.get(answer.receipt["prompt_sha256"]).decode()
    assert prompt == "Cat.\n\nYou: Mia: Mia: purr\nMia:"
    assert answer.content == "Cat. You: Mia: Mia: purr Mia: ", "the echo engine repeats the prompt"
    assert answer.receipt["mode"] == "chat"
    id = talk_with_mia(store, tmp_path)
    state = runs.start(store, id, send("x", start_with="Mia: Hello"), model)
    assert finish(runs, store, state).path()[-1].content.startswith("Hello")


def test_an_answer_of_a_character_goes_on_byte_for_byte(
    runs: Runs, store: ConversationStore, model: LoadedModel, tmp_path: Path
) -> None:
    for mode in ("instruct", "chat", "chat-instruct"):
        id = talk_with_mia(store, tmp_path, "hi", " You: I \n", mode=mode)
        answer = store.read(id).current
        continued = finish(runs, store, runs.start(store, id, ReplyRequest("continue", PARAMS, message=answer), model))
        text = continued.message(answer).content
        assert text.startswith(" You: I \n") and len(text) > len(" You: I \n"), mode


def test_variables_of_the_template_are_in_the_receipt(runs: Runs, store: ConversationStore, model: LoadedModel) -> None:
    state = runs.start(store, "", send("apple", template_kwargs={"enable_thinking": False}), model)
    answer = finish(runs, store, state).path()[-1]
    assert answer.receipt["template"]["kwargs"] == {"enable_thinking": False}


def test_a_draft_of_the_users_message_is_written_and_nothing_is_stored(
    runs: Runs, store: ConversationStore, model: LoadedModel, tmp_path: Path
) -> None:
    id = talk_with_mia(store, tmp_path, "apple", "slow pear")
    before = store.read(id)
    begun = runs.start(store, id, ReplyRequest("impersonate", PARAMS, text="I say"), model)
    assert begun.message == "" and runs.state(store, id) is None
    with pytest.raises(ConversationBusy):
        runs.start(store, id, send("plum"), model)
    wait_until(lambda: not runs.running(store))
    draft = runs.draft(store, id)
    assert draft is not None and draft.phase == "ended" and draft.error is None
    assert draft.content.startswith("I sayCat. You: apple") and draft.content.endswith("You: I say ")
    assert store.read(id) == before
    finish(runs, store, runs.start(store, id, send("plum"), model))
    assert runs.draft(store, id) is None, "the next run forgets it"


def test_a_draft_can_be_stopped_and_can_fail(
    runs: Runs, store: ConversationStore, model: LoadedModel, tmp_path: Path
) -> None:
    id = talk_with_mia(store, tmp_path, "slow count 1000")
    runs.start(store, id, ReplyRequest("impersonate", PARAMS), model)
    wait_until(lambda: (draft := runs.draft(store, id)) is not None and draft.tokens > 4)
    runs.stop(store, id)
    wait_until(lambda: not runs.running(store))
    stopped = runs.draft(store, id)
    assert stopped is not None and "0 1" in stopped.content and stopped.phase == "ended"
    id = talk_with_mia(store, tmp_path, "fail")
    runs.start(store, id, ReplyRequest("impersonate", PARAMS), model)
    wait_until(lambda: not runs.running(store))
    failed = runs.draft(store, id)
    assert failed is not None and "the echo engine will not" in str(failed.error)
    assert runs.failure(store, id) is None and len(store.read(id).messages) == 1


def test_a_real_model_plays_a_character_and_goes_on_in_each_mode(
    runs: Runs, store: ConversationStore, models_folder: Path, tmp_path: Path
) -> None:
    manager = ModelManager()
    record = Catalog(models_folder).models()[0]
    form = {"n_ctx": 512, "threads": 1, "threads_batch": 1}
    params = generation_settings.resolve({"temperature": 0, "max_new_tokens": 16})
    write_character(tmp_path, "mia", name="Mia", context="{{char}} is a helpful cat.")
    try:
        model = manager.load(
            LoadPlan(record, LLAMA, resolve(LLAMA, model=record.defaults, saved={}, flags={}, form=form))
        )
        for mode in ("instruct", "chat", "chat-instruct"):
            new = Conversation("", mode=mode, character="mia")
            state = runs.start(store, "", ReplyRequest("send", params, text="Say hello to me."), model, new)
            answer = finish(runs, store, state, seconds=60).path()[-1]
            assert answer.content.strip() and not answer.content.startswith("Mia:") and "\nYou:" not in answer.content
            prompt = store.blobs.get(answer.receipt["prompt_sha256"]).decode()
            assert ("Mia is a helpful cat." in prompt) == (mode != "instruct")
            again = ReplyRequest("continue", params, message=answer.id)
            state = runs.start(store, state.conversation, again, model)
            longer = finish(runs, store, state, seconds=60).message(answer.id)
            assert longer.content.startswith(answer.content), mode
            prompt = store.blobs.get(longer.receipt["prompt_sha256"]).decode()
            assert prompt.endswith(answer.content), mode
    finally:
        manager.unload()
