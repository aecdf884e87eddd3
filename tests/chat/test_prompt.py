"""Conversations become prompts that fit the context: what is dropped, what is kept, and what is refused.

The answers of the echo engine repeat the words of the prompt, so they show which prompt the worker received.
"""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.catalog.catalog import Catalog
from modules.catalog.record import ModelRecord
from modules.chat.errors import TemplateRefused
from modules.chat.message import Message
from modules.chat.prompt import MOST_CANDIDATES, conversation_prompt, room, text_prompt
from modules.chat.templates import ChatTemplates
from modules.core.errors import PromptTooLong
from modules.core.events import Done, Text
from modules.loaders import generation_settings
from modules.loaders.load_settings import resolve
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from tests.conftest import ECHO, LLAMA

TEMPLATES = ChatTemplates()

# The echo engine has a context of 64 tokens, and every word is a token.
PLAIN = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}answer:{% endif %}"
)


def loaded(manager: ModelManager, template: str = PLAIN) -> LoadedModel:
    record = ModelRecord("echo", Path("/models/echo"), "gguf", 0, chat_template=template)
    return manager.load(LoadPlan(record, ECHO, resolve(ECHO, model={}, saved={}, flags={}, form={})))


@pytest.fixture(scope="module")
def model() -> Iterator[LoadedModel]:
    manager = ModelManager()
    yield loaded(manager)
    manager.unload()


def params(max_new_tokens: int = 4) -> dict[str, object]:
    return generation_settings.resolve({"max_new_tokens": max_new_tokens})


def conversation(*texts: str) -> list[Message]:
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


def sent_prompt(model: LoadedModel, messages: list[Message], settings: dict[str, object], **options: bool) -> str:
    """Return the prompt that the engine received, its words separated by single spaces."""
    prompt = conversation_prompt(TEMPLATES, model, messages, settings, **options)
    return "".join(event.text for event in model.generate(prompt, settings) if isinstance(event, Text)).rstrip()


SYSTEM: Message = {"role": "system", "content": "be brief"}
LONG = " ".join(["word"] * 20)


def test_a_conversation_that_fits_is_sent_unchanged(model: LoadedModel) -> None:
    prompt = conversation_prompt(TEMPLATES, model, [SYSTEM, *conversation("hi", "hello", "bye")], params())
    assert prompt.text == "system: be brief\nuser: hi\nassistant: hello\nuser: bye\nanswer:"
    assert prompt.shorter == ()
    assert sent_prompt(model, conversation("hi"), params()) == "user: hi answer:"


def test_continuing_ends_the_prompt_with_the_last_message(model: LoadedModel) -> None:
    prompt = conversation_prompt(TEMPLATES, model, conversation("hi", "hello the"), params(), continue_last=True)
    assert prompt.text == "user: hi\nassistant: hello the"


def test_room_is_left_for_the_answer_but_at_most_half_the_context(model: LoadedModel) -> None:
    limits = (1, 10, 32, 33, 1000, 0)
    assert [room(model, params(limit)) for limit in limits] == [63, 54, 32, 32, 32, 32]


def test_truncation_length_limits_the_prompt_if_it_is_less_than_the_context(model: LoadedModel) -> None:
    truncated = [params(4) | {"truncation_length": length} for length in (0, 20, 64, 1000)]
    assert [room(model, settings) for settings in truncated] == [60, 16, 60, 60]
    messages = conversation("first", "one", LONG, "two", "last")
    assert sent_prompt(model, messages, truncated[1], drop_oldest=True) == "user: last answer:"


def test_a_prompt_that_is_too_long_is_refused_with_its_length_and_the_limit(model: LoadedModel) -> None:
    with pytest.raises(PromptTooLong) as refused:
        sent_prompt(model, conversation(LONG, LONG, LONG), params(10))
    assert (refused.value.tokens, refused.value.limit) == (3 * 21 + 1, 54)
    assert refused.value.tokens > refused.value.limit, "otherwise the error message would be wrong"


def test_only_as_many_of_the_oldest_exchanges_as_necessary_are_dropped(model: LoadedModel) -> None:
    messages = conversation(f"one {LONG}", "first", f"two {LONG}", "second", f"three {LONG}")
    text = sent_prompt(model, messages, params(), drop_oldest=True)
    assert text.startswith("user: two") and text.endswith("answer:")
    assert "one" not in text and "first" not in text
    assert sent_prompt(model, messages, params(32), drop_oldest=True).startswith("user: three")


def test_the_last_exchanges_that_fit_are_sent_of_a_thousand(model: LoadedModel) -> None:
    messages = conversation(*(f"{number} words" for number in range(2001)))
    text = sent_prompt(model, messages, params(), drop_oldest=True)
    # Each message has three words, and 60 tokens are the limit.
    assert text.startswith("user: 1982 words assistant: 1983 words") and text.endswith("user: 2000 words answer:")


def test_dropping_exchanges_takes_a_single_request_to_the_worker(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[str] = []
    start = model._worker.start

    def counting(operation: str, *deliver: Any, **args: Any) -> int:
        requests.append(operation)
        return start(operation, *deliver, **args)

    monkeypatch.setattr(model._worker, "start", counting)
    messages = conversation(*(f"{number} {LONG}" for number in range(41)))
    assert sent_prompt(model, messages, params(32), drop_oldest=True).startswith("user: 40 word")
    assert requests == ["generate"]


def test_of_very_many_exchanges_a_few_shorter_conversations_are_offered(model: LoadedModel) -> None:
    """Rendering 2,000 of them would take a minute. What fits is at most 5 % shorter than it might be."""
    roomy = copy.copy(model)
    roomy.info = dataclasses.replace(model.info, context_length=4096)
    messages = [SYSTEM, *conversation(*(f"word {number}" for number in range(4001)))]
    prompt = conversation_prompt(TEMPLATES, roomy, messages, params(), drop_oldest=True)
    texts = [change.apply(prompt.text) for change in prompt.shorter]
    assert len(texts) <= MOST_CANDIDATES + 1
    assert all(0.95 * len(longer) <= len(shorter) < len(longer) for longer, shorter in itertools.pairwise(texts))
    assert len(texts[0]) > 5 * 4096 and len(texts[-1]) <= 4096
    assert all(text.startswith("system: be brief\nuser: ") and text.endswith("word 4000\nanswer:") for text in texts)


def test_system_messages_are_not_dropped(model: LoadedModel) -> None:
    messages = [SYSTEM, *conversation(f"one {LONG}", "first", f"two {LONG}", "second", f"three {LONG}")]
    text = sent_prompt(model, messages, params(32), drop_oldest=True)
    assert text.startswith("system: be brief user: three")


def test_a_last_question_that_is_too_long_by_itself_is_refused(model: LoadedModel) -> None:
    for messages in (conversation(" ".join([LONG] * 4)), conversation("hi", "hello", " ".join([LONG] * 4))):
        with pytest.raises(PromptTooLong):
            sent_prompt(model, messages, params(), drop_oldest=True)


def test_a_system_message_that_is_too_long_by_itself_is_refused(model: LoadedModel) -> None:
    with pytest.raises(PromptTooLong):
        sent_prompt(model, [{"role": "system", "content": " ".join([LONG] * 4)}], params(32), drop_oldest=True)


def test_dropping_exchanges_does_not_change_the_messages_of_the_caller(model: LoadedModel) -> None:
    messages = conversation(LONG, "first", LONG, "second", LONG)
    before = [dict(message) for message in messages]
    conversation_prompt(TEMPLATES, model, messages, params(), drop_oldest=True)
    assert messages == before


def test_an_error_raised_by_the_template_is_reported() -> None:
    manager = ModelManager()
    try:
        refusing = loaded(manager, "{{ raise_exception('not with me') }}")
        with pytest.raises(TemplateRefused, match="not with me"):
            conversation_prompt(TEMPLATES, refusing, conversation("hi"), params())
    finally:
        manager.unload()


def test_the_marks_of_the_alpaca_format_end_an_answer_where_a_model_has_no_template(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = ModelManager()
    sent: list[dict[str, Any]] = []
    settings = generation_settings.resolve({"custom_stopping_strings": '"ours"'})
    try:
        plain = loaded(manager, "")
        monkeypatch.setattr(plain._worker, "events", lambda _, **args: sent.append(args))
        prompt = conversation_prompt(TEMPLATES, plain, conversation("hi"), settings)
        plain.generate(prompt, settings)
        assert prompt.text == "### Instruction:\nhi\n\n### Response:\n"
        assert sent[0]["params"]["stop"][0] == "ours" and "### Instruction:" in sent[0]["params"]["stop"]
        assert settings["stop"] == ["ours"]
    finally:
        manager.unload()
    assert conversation_prompt(TEMPLATES, model, conversation("hi"), params()).stop == ()


def test_a_real_model_answers_a_question(models_folder: Path) -> None:
    record = Catalog(models_folder).models()[0]
    manager = ModelManager()
    try:
        form = {"n_ctx": 512, "threads": 1, "threads_batch": 1}
        model = manager.load(
            LoadPlan(record, LLAMA, resolve(LLAMA, model=record.defaults, saved={}, flags={}, form=form))
        )
        settings = generation_settings.resolve({"temperature": 0})
        question = conversation("Name the capital of France in one English sentence.")
        prompt = conversation_prompt(TEMPLATES, model, question, settings)
        assert prompt.text.startswith("<|im_start|>system\n")
        *pieces, done = model.generate(prompt, settings)
        assert isinstance(done, Done) and done.prompt_tokens == 40
        answer = "".join(event.text for event in pieces if isinstance(event, Text))
        assert answer == "The capital of France is Paris."
    finally:
        manager.unload()


@pytest.mark.parametrize("bos", [False, True], ids=["no BOS", "BOS"])
def test_a_text_is_truncated_to_the_exact_length_with_and_without_a_bos_token(
    smollm2: Path, tmp_path: Path, bos: bool
) -> None:
    weights, switch = bytearray(smollm2.read_bytes()), b"tokenizer.ggml.add_bos_token\x07\x00\x00\x00"
    weights[weights.index(switch) + len(switch)] = bos
    (tmp_path / "model.gguf").write_bytes(weights)
    record = Catalog(tmp_path).models()[0]
    text = "A café in 北京 sells 🍵🍰 for 1234567.89: un\u00adbelievable! 猫がいる。\n\n  def f():\n\treturn 2 " * 3
    manager = ModelManager()
    try:
        form = {"n_ctx": 512, "threads": 1, "threads_batch": 1}
        model = manager.load(
            LoadPlan(record, LLAMA, resolve(LLAMA, model=record.defaults, saved={}, flags={}, form=form))
        )
        total = len(model.ask("encode", text=text))
        for length in (2, 3, 69, total - 1, total, total + 1, 0):
            settings = generation_settings.resolve({"truncation_length": length, "max_new_tokens": 1})
            *_, done = model.generate(text_prompt(text, settings), settings)
            assert isinstance(done, Done) and done.prompt_tokens == min(length or total, total)
    finally:
        manager.unload()


def test_shorter_prompts_are_offered_if_normalization_could_make_the_text_too_long(model: LoadedModel) -> None:
    ligature = "\N{ARABIC LIGATURE SALLALLAHOU ALAYHE WASALLAM}"  # 3 bytes of UTF-8, 33 in the form NFKC
    messages = conversation(ligature, "yes", "bye")
    short = conversation_prompt(TEMPLATES, model, conversation("a", "yes", "bye"), params(), drop_oldest=True)
    assert len(short.text.encode()) < 60 and short.shorter == ()
    assert conversation_prompt(TEMPLATES, model, messages, params(), drop_oldest=True).shorter
