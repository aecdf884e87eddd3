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
from modules.chat.errors import ImageLeftOut, ImagesUnsupported, TemplateRefused
from modules.chat.message import Message
from modules.chat.prompt import (
    MOST_CANDIDATES,
    ChatPrompt,
    NotRendered,
    PromptForm,
    chat_prompt,
    instruct_form,
    prompt_text,
    rendered_form,
    room,
    text_prompt,
)
from modules.chat.templates import ALPACA_STOPS, ChatTemplates, ModelTemplate
from modules.core.errors import Unsupported
from modules.core.events import Done, Text
from modules.core.image_marks import mark, marked_numbers
from modules.core.prompt import Image, Prompt
from modules.core.worker_errors import PromptTooLong
from modules.loaders import generation_settings
from modules.loaders.load_settings import resolve
from modules.runtime import loaded_model
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


def prompt_of(
    model: LoadedModel,
    messages: list[Message],
    settings: dict[str, object],
    *,
    templates: ChatTemplates = TEMPLATES,
    continue_last: bool = False,
    drop_oldest: bool = False,
) -> Prompt:
    """Return the prompt as the API asks for it."""
    options = {"continue_last": continue_last, "drop_oldest": drop_oldest}
    return chat_prompt(templates, model, messages, settings, hysteresis=False, **options).prompt


def sent_prompt(
    model: LoadedModel, messages: list[Message], settings: dict[str, object], drop_oldest: bool = False
) -> str:
    """Return the prompt that the engine received, its words separated by single spaces."""
    prompt = prompt_of(model, messages, settings, drop_oldest=drop_oldest)
    return "".join(event.text for event in model.generate(prompt, settings) if isinstance(event, Text)).rstrip()


SYSTEM: Message = {"role": "system", "content": "be brief"}
LONG = " ".join(["word"] * 20)


def test_a_prompt_says_what_follows_its_answer_in_the_next_turn(model: LoadedModel) -> None:
    prompt = chat(model, conversation("hi")).prompt
    assert prompt.next_turn == "\nuser: "
    assert loaded_model._arguments(prompt, params())["params"]["next_turn"] == "\nuser: "
    form = PromptForm(lambda messages, continue_last: "hi", ModelTemplate("echo", PLAIN))
    assert chat(model, conversation("hi"), form=form).prompt.next_turn == "", "a form of another mode"


def test_a_conversation_that_fits_is_sent_unchanged(model: LoadedModel) -> None:
    prompt = prompt_of(model, [SYSTEM, *conversation("hi", "hello", "bye")], params())
    assert prompt.text == "system: be brief\nuser: hi\nassistant: hello\nuser: bye\nanswer:"
    assert prompt.shorter == ()
    assert sent_prompt(model, conversation("hi"), params()) == "user: hi answer:"


def test_continuing_ends_the_prompt_with_the_last_message(model: LoadedModel) -> None:
    prompt = prompt_of(model, conversation("hi", "hello the"), params(), continue_last=True)
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
    prompt = prompt_of(roomy, messages, params(), drop_oldest=True)
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
    prompt_of(model, messages, params(), drop_oldest=True)
    assert messages == before


def test_an_error_raised_by_the_template_is_reported() -> None:
    manager = ModelManager()
    try:
        refusing = loaded(manager, "{{ raise_exception('not with me') }}")
        with pytest.raises(TemplateRefused, match="not with me"):
            prompt_of(refusing, conversation("hi"), params())
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
        prompt = prompt_of(plain, conversation("hi"), settings)
        plain.generate(prompt, settings)
        assert prompt.text == "### Instruction:\nhi\n\n### Response:\n"
        assert sent[0]["params"]["stop"][0] == "ours" and "### Instruction:" in sent[0]["params"]["stop"]
        assert settings["stop"] == ["ours"]
    finally:
        manager.unload()
    assert prompt_of(model, conversation("hi"), params()).stop == ()


def test_the_marks_of_a_chosen_template_end_an_answer_as_well(model: LoadedModel) -> None:
    vicuna = "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}\n{% endfor %}"
    templates = ChatTemplates(lambda own: dataclasses.replace(own, source=vicuna, origin="chosen", file="mine"))
    prompt = prompt_of(model, conversation("hi"), params(), templates=templates)
    assert prompt.text == "USER: hi\n" and prompt.stop == ("\nASSISTANT:", "\nUSER:")


# -- chats ------------------------------------------------------------------------------------------------------------

OPENING = PLAIN.replace("answer:", "answer: <think>\n")


def chat(model: LoadedModel, messages: list[Message], max_new_tokens: int = 4, **options: Any) -> ChatPrompt:
    return chat_prompt(TEMPLATES, model, messages, params(max_new_tokens), **options)


def sent(model: LoadedModel, prompt: ChatPrompt) -> tuple[str, int | None, int]:
    """Return the prompt that the engine received, the first message of it, and how many tokens it had."""
    *texts, done = model.generate(prompt.prompt, params())
    assert isinstance(done, Done)
    text = "".join(event.text for event in texts if isinstance(event, Text)).rstrip()
    return text, prompt.first_message(done), done.prompt_tokens


NUMBERED = [SYSTEM, *conversation(*(f"{number} word" for number in range(41)))]
"""Each message has three tokens, and one more asks for the answer; 60 are the limit, 45 the target."""


def test_a_chat_that_is_too_long_is_shortened_to_three_quarters_of_the_room(model: LoadedModel) -> None:
    text, first, tokens = sent(model, chat(model, NUMBERED))
    assert (first, tokens) == (29, 3 * 14 + 1)
    assert text.startswith("system: be brief user: 28 word")
    text, first, tokens = sent(model, chat(model, NUMBERED, hysteresis=False))
    assert (first, tokens) == (25, 3 * 18 + 1)


def test_the_next_prompts_of_a_shortened_chat_begin_with_the_same_text(model: LoadedModel) -> None:
    shortened = []
    dropped_until, count, previous = 0, 0, ""
    for last in range(1, len(NUMBERED), 2):
        text, first, tokens = sent(model, chat(model, NUMBERED[: last + 1], dropped_until=dropped_until))
        assert tokens <= 60
        if first is not None:
            shortened.append(tokens)
            dropped_until = first
        else:
            count += 1
            assert text.startswith(previous.removesuffix(" answer:"))
        previous = text
    assert shortened == [43, 43, 43, 43] and count == 17


def test_messages_that_were_dropped_before_are_left_out(model: LoadedModel) -> None:
    messages = [SYSTEM, *conversation("one", "first", "two", "second", "three")]
    prompt = chat(model, messages, dropped_until=3)
    assert prompt.prompt.text == "system: be brief\nuser: two\nassistant: second\nuser: three\nanswer:"
    assert [change.apply(prompt.prompt.text) for change in prompt.prompt.shorter] == [
        "system: be brief\nuser: three\nanswer:"
    ]
    assert prompt.starts == (5,)
    assert chat(model, messages, dropped_until=99).prompt.text == "system: be brief\nuser: three\nanswer:"


def test_a_last_question_that_is_too_long_is_refused_with_both_numbers(model: LoadedModel) -> None:
    with pytest.raises(PromptTooLong) as refused:
        sent(model, chat(model, conversation("hi", "hello", " ".join([LONG] * 4))))
    assert (refused.value.tokens, refused.value.limit) == (82, 60)


def test_a_question_between_target_and_limit_is_sent_alone(model: LoadedModel) -> None:
    assert sent(model, chat(model, conversation("hi", LONG, " ".join(["word"] * 50))))[1:] == (2, 52)


def test_the_beginning_of_a_reply_ends_every_text(model: LoadedModel) -> None:
    prompt = chat(model, NUMBERED, start_with=" Well,\n ").prompt
    texts = [prompt.text, *(change.apply(prompt.text) for change in prompt.shorter)]
    assert len(texts) > 1 and all(text.endswith("user: 40 word\nanswer: Well,\n ") for text in texts)


def test_a_begun_reply_has_the_space_that_the_template_writes_before_answers(model: LoadedModel) -> None:
    spaced = copy.copy(model)
    spaced.record = dataclasses.replace(model.record, chat_template=PLAIN.replace("{{ m.role }}", "answer"))
    for start in ("Well", " Well"):
        begun = chat(spaced, conversation("hi"), start_with=start).prompt.text
        assert begun == f"answer: hi\nanswer: {start}"


def parsed(prompt: ChatPrompt, *pieces: str) -> list[tuple[str, str]]:
    parser = prompt.parser()
    return [part for piece in pieces for part in parser.feed(piece)] + parser.end()


def test_a_reply_is_read_as_its_prompt_ends(model: LoadedModel) -> None:
    question = conversation("hi")
    assert parsed(chat(model, question), "<think>why?</think>yes") == [("reasoning", "why?"), ("text", "yes")]
    start = "<think>\nwhy"
    assert parsed(chat(model, question, start_with=start), start, "?</think>yes") == [
        *(("reasoning", "why"), ("reasoning", "?"), ("text", "yes"))
    ]
    opening = copy.copy(model)
    opening.record = dataclasses.replace(model.record, chat_template=OPENING)
    assert parsed(chat(opening, question), "why?</think>yes") == [("reasoning", "why?"), ("text", "yes")]
    assert parsed(chat(opening, question, start_with="why"), "why", "?</think>yes") == [
        *(("reasoning", "why"), ("reasoning", "?"), ("text", "yes"))
    ]


def test_the_marks_of_thoughts_appear_in_the_reply_even_if_they_are_special_tokens(model: LoadedModel) -> None:
    visible = chat(model, conversation("hi")).prompt.visible
    assert {"<think>", "<|channel|>analysis<|message|>", "<|start|>assistant<|channel|>final<|message|>"} <= {*visible}
    answered = [*conversation("hi", "hello")]
    assert chat(model, answered, continue_last=True).prompt.visible == visible


def test_a_reply_is_continued_where_it_stopped(model: LoadedModel) -> None:
    def continued(**answer: str) -> ChatPrompt:
        return chat(model, [*conversation("hi"), {"role": "assistant", **answer}], continue_last=True)

    in_text = continued(content="hello <think> the ", reasoning_content="why?")
    assert in_text.prompt.text == "user: hi\nassistant: hello <think> the "
    assert parsed(in_text, "\n<think>x") == [("text", "\n<think>x")]
    in_thought = continued(content="", reasoning_content="why? \n")
    assert in_thought.prompt.text == "user: hi\nanswer:<think>\nwhy? \n"
    assert parsed(in_thought, "\nso</think>\nyes") == [("reasoning", "\nso"), ("text", "yes")]
    not_begun = continued(content="")
    assert not_begun.prompt.text == "user: hi\nanswer:"
    assert parsed(not_begun, "<think>x") == [("reasoning", "x")]


def test_a_conversation_that_was_rendered_before_has_the_same_prompt_and_is_rendered_for_nothing_else(
    model: LoadedModel,
) -> None:
    template = TEMPLATES.of(model.record, model.info)

    def form(messages: list[Message]) -> PromptForm:
        return rendered_form(TEMPLATES, template, messages, TEMPLATES.render(template, messages))

    messages = [SYSTEM, *conversation(LONG, LONG, LONG)]
    whole = chat(model, messages, drop_oldest=False)
    assert chat(model, messages, drop_oldest=False, form=form(messages)) == whole
    for others, options in ((messages[:-1], {}), (messages, {"continue_last": True})):
        with pytest.raises(NotRendered):
            chat(model, others, drop_oldest=False, form=form(messages), **options)
    with pytest.raises(NotRendered):  # shorter conversations have to be rendered
        chat(model, messages, form=form(messages))
    alpaca = ModelTemplate("tiny", "")
    assert rendered_form(TEMPLATES, alpaca, messages, "text").stop == ALPACA_STOPS


def test_the_text_of_a_prompt_is_without_what_was_dropped_before(model: LoadedModel) -> None:
    form = instruct_form(TEMPLATES, model)
    assert len(prompt_text(conversation("hi"), form).split()) == 3
    assert len(prompt_text(NUMBERED, form).split()) == 42 * 3 + 1
    assert len(prompt_text(NUMBERED, form, dropped_until=41).split()) == 2 * 3 + 1


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
        prompt = prompt_of(model, question, settings)
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
    short = prompt_of(model, conversation("a", "yes", "bye"), params(), drop_oldest=True)
    assert len(short.text.encode()) < 60 and short.shorter == ()
    assert prompt_of(model, messages, params(), drop_oldest=True).shorter


# -- pictures ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def seeing(model: LoadedModel) -> Iterator[LoadedModel]:
    """The model of the echo engine, as if it read pictures: no prompt is sent to it."""
    info, model.info = model.info, dataclasses.replace(model.info, images=True)
    yield model
    model.info = info


ALBUM: list[Message] = [
    {"role": "user", "content": f"first {mark(0)}"},
    {"role": "assistant", "content": "yes"},
    {"role": "user", "content": f"second {mark(1)}"},
]
PICTURES = (Image("a", b"1"), Image("b", b"2"))


def test_pictures_are_sent_with_the_prompt_that_marks_them(seeing: LoadedModel) -> None:
    prompt = chat_prompt(TEMPLATES, seeing, ALBUM, params(), images=PICTURES).prompt
    assert prompt.images == PICTURES
    assert len(prompt.shorter) == 1, "only the worker knows how many tokens a picture has"
    assert marked_numbers(prompt.shorter[0].apply(prompt.text)) == [1]
    later = chat_prompt(TEMPLATES, seeing, ALBUM, params(), images=PICTURES, dropped_until=2).prompt
    assert later.images == (Image("a", b""), PICTURES[1]), "a dropped picture is not sent"


def test_a_model_that_reads_text_refuses_pictures_by_name(model: LoadedModel) -> None:
    with pytest.raises(ImagesUnsupported, match=r"^echo cannot read images"):
        chat_prompt(TEMPLATES, model, ALBUM, params(), images=PICTURES)


def test_a_template_that_loses_a_picture_is_refused(seeing: LoadedModel) -> None:
    lossy = PromptForm(lambda messages, _: str(messages[-1]["content"]), ModelTemplate("echo", PLAIN))
    with pytest.raises(ImageLeftOut):
        chat_prompt(TEMPLATES, seeing, ALBUM, params(), images=PICTURES, form=lossy)


# -- servers that take messages ------------------------------------------------------------------------------------


@pytest.fixture
def served(model: LoadedModel) -> Iterator[LoadedModel]:
    """The model of the echo engine, as if a server that takes messages had it: no prompt is sent to it."""
    info, model.info = model.info, dataclasses.replace(model.info, messages=True)
    yield model
    model.info = info


def test_a_server_gets_the_messages_of_a_conversation(served: LoadedModel) -> None:
    parts: Message = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    messages = [{"role": "developer", "content": "be brief"}, *conversation("hi", "hello"), parts]
    prompt = chat_prompt(TEMPLATES, served, messages, params()).prompt
    assert prompt.messages == (SYSTEM, *conversation("hi", "hello"), {"role": "user", "content": "a\nb"})
    assert not prompt.continues
    assert chat_prompt(TEMPLATES, served, conversation("hi", "hel"), params(), continue_last=True).prompt.continues
    begun = chat_prompt(TEMPLATES, served, conversation("hi"), params(), start_with="Well").prompt
    assert begun.messages[-1] == {"role": "assistant", "content": "Well"} and begun.continues


def test_the_oldest_messages_are_dropped_as_the_oldest_text_is(served: LoadedModel) -> None:
    messages = [SYSTEM, *conversation(*[f"{number} {LONG}" for number in range(9)])]
    form = dataclasses.replace(instruct_form(TEMPLATES, served), before=({"role": "system", "content": "you are Mia"},))
    chat = chat_prompt(TEMPLATES, served, messages, params(), form=form)
    for index in range(len(chat.prompt.shorter)):
        used = chat.prompt.used_messages(index)
        assert [one["content"] for one in used[:2]] == ["you are Mia", "be brief"]
        first = messages[chat.first_message(Done("stop", shortened=index)) or 0]
        assert used[2]["content"] == first["content"], "the page marks what was dropped there"


def test_a_server_that_takes_messages_refuses_what_needs_text(served: LoadedModel) -> None:
    form = dataclasses.replace(instruct_form(TEMPLATES, served), needs_text=True)
    with pytest.raises(Unsupported, match="messages only"):
        chat_prompt(TEMPLATES, served, conversation("hi"), params(), form=form)
    thought: Message = {"role": "assistant", "content": "", "reasoning_content": "Let me"}
    with pytest.raises(Unsupported, match="continue a thought"):
        chat_prompt(TEMPLATES, served, [*conversation("hi"), thought], params(), continue_last=True)
