"""From a conversation to a prompt that fits: what is dropped, what stays, and when it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.catalog.catalog import Catalog, ModelRecord
from modules.chat import prompt as chat
from modules.chat.templates import Message
from modules.core.errors import PromptTooLong, Unsupported
from modules.core.events import Text
from modules.loaders import generation_settings
from modules.loaders.registry import settle
from modules.runtime.model_manager import LoadedModel, Models
from tests.conftest import ECHO, LLAMA

# The tests' own engine has a context of 64 and counts words.
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}answer:{% endif %}"
)


def loaded(owner: Models, template: str = PLAIN) -> LoadedModel:
    record = ModelRecord("echo", Path("/models/echo"), "gguf", 0, chat_template=template)
    return owner.load(record, ECHO, settle(ECHO, model={}, saved={}, flags={}, form={}))


@pytest.fixture(scope="module")
def model() -> Iterator[LoadedModel]:
    owner = Models()
    yield loaded(owner)
    owner.unload()


def params(max_new_tokens: int = 4) -> dict[str, object]:
    return generation_settings.settle({"max_new_tokens": max_new_tokens})


def said(*texts: str) -> list[Message]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


SYSTEM: Message = {"role": "system", "content": "be brief"}
LONG = " ".join(["word"] * 20)


def test_a_conversation_that_fits_is_told_whole(model: LoadedModel) -> None:
    assert chat.prompt(model, [SYSTEM, *said("hi", "hello", "bye")], params()) == (
        "system: be brief\nuser: hi\nassistant: hello\nuser: bye\nanswer:"
    )


def test_to_continue_ends_with_the_last_message(model: LoadedModel) -> None:
    assert chat.prompt(model, said("hi", "hello the"), params(), continue_last=True) == "user: hi\nanswer:hello the"


def test_room_is_left_for_the_answer_but_no_more_than_half_the_context(model: LoadedModel) -> None:
    assert [chat.room(model, params(wish)) for wish in (1, 10, 32, 33, 1000, 0)] == [63, 54, 32, 32, 32, 32]


def test_a_length_to_truncate_to_counts_where_it_is_less_than_the_context(model: LoadedModel) -> None:
    lengths = [params(4) | {"truncation_length": length} for length in (0, 20, 64, 1000)]
    assert [chat.room(model, each) for each in lengths] == [60, 16, 60, 60]
    told = chat.prompt(model, said("first", "one", LONG, "two", "last"), lengths[1], drop_oldest=True)
    assert told == "user: last\nanswer:"


def test_a_prompt_that_is_too_long_is_refused_with_its_length_and_the_room_there_is(model: LoadedModel) -> None:
    with pytest.raises(PromptTooLong) as refused:
        chat.prompt(model, said(LONG, LONG, LONG), params(10))
    assert (refused.value.tokens, refused.value.limit) == (3 * 21 + 1, 54)
    assert refused.value.tokens > refused.value.limit, "else the sentence makes no sense"


def test_the_oldest_exchanges_are_dropped_as_many_as_it_takes_and_no_more(model: LoadedModel) -> None:
    messages = said(f"one {LONG}", "first", f"two {LONG}", "second", f"three {LONG}")
    text = chat.prompt(model, messages, params(), drop_oldest=True)
    assert "one" not in text
    assert "first" not in text
    assert text.startswith("user: two")
    assert text.endswith("answer:")
    assert chat.prompt(model, messages, params(32), drop_oldest=True).startswith("user: three")


def test_what_the_system_said_stays(model: LoadedModel) -> None:
    messages = [SYSTEM, *said(f"one {LONG}", "first", f"two {LONG}", "second", f"three {LONG}")]
    assert chat.prompt(model, messages, params(32), drop_oldest=True).startswith("system: be brief\nuser: three")


def test_a_last_question_that_is_too_long_by_itself_is_refused(model: LoadedModel) -> None:
    for messages in (said(" ".join([LONG] * 4)), said("hi", "hello", " ".join([LONG] * 4))):
        with pytest.raises(PromptTooLong):
            chat.prompt(model, messages, params(), drop_oldest=True)


def test_words_of_the_system_alone_can_be_too_long(model: LoadedModel) -> None:
    with pytest.raises(PromptTooLong):
        chat.prompt(model, [{"role": "system", "content": LONG * 4}], params(32), drop_oldest=True)


def test_dropping_leaves_the_conversation_itself_alone(model: LoadedModel) -> None:
    messages = said(LONG, "first", LONG, "second", LONG)
    before = [dict(message) for message in messages]
    chat.prompt(model, messages, params(), drop_oldest=True)
    assert messages == before


def test_what_the_template_refuses_is_told() -> None:
    owner = Models()
    try:
        refusing = loaded(owner, "{{ raise_exception('not with me') }}")
        with pytest.raises(Unsupported, match="not with me"):
            chat.prompt(refusing, said("hi"), params())
    finally:
        owner.unload()


def test_a_real_model_answers_what_it_is_asked(models_folder: Path) -> None:
    record = Catalog(models_folder).models()[0]
    owner = Models()
    try:
        form = {"n_ctx": 512, "threads": 1, "threads_batch": 1}
        model = owner.load(record, LLAMA, settle(LLAMA, model=record.defaults, saved={}, flags={}, form=form))
        wishes = generation_settings.settle({"temperature": 0})
        question = said("Name the capital of France in one English sentence.")
        prompt = chat.prompt(model, question, wishes)
        assert prompt.startswith("<|im_start|>system\n")
        assert chat.count(model, prompt) == 40
        answer = "".join(event.text for event in model.generate(prompt, wishes) if isinstance(event, Text))
        assert answer == "The capital of France is Paris."
    finally:
        owner.unload()


@pytest.mark.parametrize("bos", [False, True], ids=["no BOS", "BOS"])
def test_a_text_is_cut_to_the_very_token_whether_or_not_the_model_puts_one_before_it(
    smollm2: Path, tmp_path: Path, bos: bool
) -> None:
    weights, switch = bytearray(smollm2.read_bytes()), b"tokenizer.ggml.add_bos_token\x07\x00\x00\x00"
    weights[weights.index(switch) + len(switch)] = bos
    (tmp_path / "model.gguf").write_bytes(weights)
    record = Catalog(tmp_path).models()[0]
    text = "A café in 北京 sells 🍵🍰 for 1234567.89: un\u00adbelievable! 猫がいる。\n\n  def f():\n\treturn 2 " * 3
    owner = Models()
    try:
        form = {"n_ctx": 512, "threads": 1, "threads_batch": 1}
        model = owner.load(record, LLAMA, settle(LLAMA, model=record.defaults, saved={}, flags={}, form=form))
        for length in range(2, 70):
            left = chat.cut(model, text, generation_settings.settle({"truncation_length": length}))
            assert chat.count(model, left) == length
            assert text.endswith(left.lstrip("\ufffd")), "nothing but its beginning is gone"
        whole = chat.count(model, text)
        for length in (0, whole, whole + 1):
            assert chat.cut(model, text, generation_settings.settle({"truncation_length": length})) == text
    finally:
        owner.unload()
