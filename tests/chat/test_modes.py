"""Conversations become the prompts of their modes, as in the original; nothing but old exchanges is ever dropped."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.catalog.catalog import Catalog
from modules.chat.errors import TemplateRefused
from modules.chat.modes import ConversationPrompts, PromptOptions, ReplyPrompt
from modules.chat.templates import ChatTemplates
from modules.conversations.conversation import Conversation
from modules.core.events import Done, Json, Text
from modules.loaders import generation_settings
from modules.loaders.load_settings import resolve
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from tests.conftest import ECHO, LLAMA
from tests.support import echo_plans
from tests.support.dialogues import make_prompts, write_character
from tests.support.original_prompts import CHARACTER, DIALOGS, RECORDED, TEMPLATE, cases, owners, without_last_space

PARAMS: dict[str, Json] = generation_settings.resolve({"max_new_tokens": 10})
MODES = ("instruct", "chat", "chat-instruct")


@pytest.fixture(scope="module")
def templates() -> Iterator[ChatTemplates]:
    templates = ChatTemplates()
    yield templates
    templates.close()


@pytest.fixture(scope="module")
def model() -> Iterator[LoadedModel]:
    manager = ModelManager()
    record = dataclasses.replace(echo_plans.record("good"), chat_template=TEMPLATE)
    yield manager.load(LoadPlan(record, ECHO, echo_plans.SETTINGS))
    manager.unload()


@pytest.fixture
def prompts(tmp_path: Path, templates: ChatTemplates) -> ConversationPrompts:
    write_character(tmp_path, "mia", name="Mia", context="{{char}} is a cat.", greeting="Meow!")
    return make_prompts(tmp_path, templates, name1="Tom", chat_instruct_command="Be <|character|>.\n<|prompt|>")


def conversation(mode: str, *texts: str, **fields: Any) -> Conversation:
    made = Conversation("", mode=mode, character="mia", **fields)
    for index, text in enumerate(texts):
        made.add(("user", "assistant")[index % 2], text)
    return made


def prompt_of(
    prompts: ConversationPrompts,
    model: LoadedModel,
    talk: Conversation,
    options: PromptOptions | None = None,
    dropped: str = "",
) -> ReplyPrompt:
    return prompts.reply(model, talk, talk.path(), PARAMS, options or PromptOptions(), dropped)


def test_prompts_and_stop_strings_equal_those_of_the_original() -> None:
    recorded = json.loads(RECORDED.read_text())
    with owners(CHARACTER, TEMPLATE) as ours:
        for mode, action, dialog in cases():
            expected = recorded[f"{mode} / {action} / {dialog}"]
            prompt, stops = ours(mode, action, DIALOGS[dialog])
            assert prompt == without_last_space(expected["prompt"], mode, action), (mode, action, dialog)
            assert set(expected["stop"]) <= set(stops)
            others = set(stops) - set(expected["stop"])
            assert others <= {"\nTom:", "\nTom：", "\nLena:", "\nLena："} and (mode == "instruct") == (not others)


def test_a_reply_is_continued_byte_for_byte_in_each_mode(prompts: ConversationPrompts, model: LoadedModel) -> None:
    for mode in MODES:
        talk = conversation(mode, " Hello! \n", "\n Mia: Yes,\n\n  I ")
        text = prompt_of(prompts, model, talk, PromptOptions(continues=True)).prompt.text
        assert text.endswith("\n Mia: Yes,\n\n  I "), mode
        assert text.count("Yes,") == 1


def test_the_card_of_a_character_adds_its_instructions(
    prompts: ConversationPrompts, model: LoadedModel, tmp_path: Path
) -> None:
    lore = {"keys": ["Fish"], "content": "{{char}} loves fish.", "insertion_order": 1, "enabled": True}
    later = {**lore, "content": "It is Monday.", "constant": True, "insertion_order": 2, "position": "after_char"}
    write_character(
        tmp_path, "mia", name="Mia", context="{{char}} is a cat.", system_prompt="Be {{char}}. {{original}}",
        post_history_instructions="Stay a cat, {{char}}.", example_dialogue="<START>\n{{user}}: A\n{{char}}: B\nC",
        character_book=json.dumps({"entries": [lore, later, {**lore, "keys": ["dog"], "content": "no"}]}),
    )  # fmt: skip
    talk = conversation("chat", "Do you like fish?", system="Be brief.")
    script = (
        "Mia loves fish.\n\nMia is a cat.\n\nIt is Monday.\n\n<START>\nTom: A\nMia: B\nC\n\nTom: Do you like fish?\n"
    )
    chat = prompt_of(prompts, model, talk).prompt.text
    assert chat == f"Be Mia. Be brief.\n\n{script}Stay a cat, Mia.\nMia:"
    talk.mode = "chat-instruct"
    system = "<|im_start|>system\nBe Mia. Be brief.<|im_end|>\n"
    question = f"<|im_start|>user\nBe Mia.\n{script}Stay a cat, Mia.\n<|im_end|>\n"
    assert prompt_of(prompts, model, talk).prompt.text == f"{system}{question}<|im_start|>assistant\n"
    talk.mode = "instruct"
    assert "cat" not in prompt_of(prompts, model, talk).prompt.text
    talk.mode = "chat"
    impersonation = prompt_of(prompts, model, talk, PromptOptions(impersonates=True)).prompt.text
    assert impersonation.endswith("Tom: Do you like fish?\nTom:"), "the note is for the character"
    talk.add("assistant", "Yes, ")
    assert prompt_of(prompts, model, talk, PromptOptions(continues=True)).prompt.text.endswith(
        "Stay a cat, Mia.\nMia: Yes, "
    )


def test_old_exchanges_are_dropped_and_the_character_stays(
    prompts: ConversationPrompts, model: LoadedModel, tmp_path: Path
) -> None:
    write_character(tmp_path, "mia", name="Mia", context="A cat.", example_dialogue="<START>\n{{user}}: A\n{{char}}: B")
    for mode in ("chat", "chat-instruct"):
        talk = Conversation("", mode=mode, character="mia")
        ids = [talk.add("assistant", "Meow, greeting!").id]
        for number in range(6):
            ids.append(talk.add("user", f"question{number} " + "word " * 6).id)
            ids.append(talk.add("assistant", f"answer{number}").id)
        ids.append(talk.add("user", "last").id)
        made = prompt_of(prompts, model, talk)
        (*_, done) = model.generate(made.prompt, PARAMS)
        assert isinstance(done, Done)
        first, sent = made.first_message(done), made.prompt.used_text(done.shortened)
        assert "A cat.\n\n<START>\nTom: A\nMia: B\n" in sent
        assert "greeting" not in sent and "question0" not in sent and "Tom: last\n" in sent
        assert first in ids and talk.message(first).content.split()[0] in sent
        again = prompt_of(prompts, model, talk, dropped=first)
        assert again.prompt.text == sent
        talk.dropped_until = first
        assert prompts.count(model, talk) == len(sent.split())


def test_a_greeting_alone_can_be_dropped(prompts: ConversationPrompts, model: LoadedModel) -> None:
    talk = Conversation("", mode="chat", character="mia")
    talk.add("assistant", "Meow! " * 90)
    talk.add("user", "last")
    prompt = prompt_of(prompts, model, talk).prompt
    assert [prompt.used_text(index) for index in range(len(prompt.shorter))] == ["Mia is a cat.\n\nTom: last\nMia:"]


def test_another_chat_template_gets_the_same_variables(
    prompts: ConversationPrompts, model: LoadedModel, tmp_path: Path, templates: ChatTemplates
) -> None:
    write_character(
        tmp_path,
        "mia",
        name="Mia",
        context="A cat.",
        example_dialogue="<START>\n{{user}}: A",
        post_history_instructions="!",
    )
    template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}|{{ user_bio }}|<USER> of {{char}}\n"
        "{% else %}[{{ name1 if m.role == 'user' else name2 }}] {{ m.content }}\n{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}[{{ name2 }}]{% endif %}"
    )
    other = make_prompts(tmp_path, templates, name1="T{{x}}", user_bio="{{user}} sails.", chat_template_str=template)
    made = prompt_of(other, model, conversation("chat", "Hi"))
    opening = "A cat.\n\n<START>\n[T{{x}}] A|T{{x}} sails.|T{{x}} of Mia\n"
    assert made.prompt.text == f"{opening}[T{{{{x}}}}] Hi\n!\n[Mia]"
    assert "[Mia]" in made.prompt.stop and "[T{{x}}]" in made.prompt.stop


def test_the_cards_last_instructions_follow_the_messages_of_a_template_that_begins_with_the_reply(
    prompts: ConversationPrompts, model: LoadedModel, tmp_path: Path, templates: ChatTemplates
) -> None:
    write_character(tmp_path, "mia", name="Mia", context="A cat.", post_history_instructions="Stay a cat.")
    template = (
        "{% if add_generation_prompt %}As {{ name2 }}:\n{% endif %}"
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    )
    other = make_prompts(tmp_path, templates, name1="Tom", chat_template_str=template)
    prompt = prompt_of(other, model, conversation("chat", "Hi")).prompt
    assert prompt.text.endswith("As Mia:\nsystem: A cat.\nuser: Hi\nsystem: Stay a cat.\n")


def test_strings_that_end_a_thought_do_not_end_the_reply(
    prompts: ConversationPrompts, templates: ChatTemplates
) -> None:
    template = (
        "{% for m in messages %}<|start|>{{ m.role }}{% if m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}"
        "<|end|><|start|>assistant{% endif %}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>"
        "{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
    )
    manager = ModelManager()
    record = dataclasses.replace(echo_plans.record("good"), chat_template=template)
    try:
        thinking = manager.load(LoadPlan(record, ECHO, echo_plans.SETTINGS))
        assert prompt_of(prompts, thinking, conversation("instruct", "Hi")).prompt.stop == ()
    finally:
        manager.unload()


def test_a_script_needs_no_template_of_the_model(prompts: ConversationPrompts) -> None:
    manager = ModelManager()
    record = dataclasses.replace(echo_plans.record("good"), chat_template="{{ raise_exception('never') }}")
    try:
        strict = manager.load(LoadPlan(record, ECHO, echo_plans.SETTINGS))
        made = prompt_of(prompts, strict, conversation("chat", "Hi"), PromptOptions(start_with="Well"))
        assert made.prompt.text == "Mia is a cat.\n\nTom: Hi\nMia: Well"
        with pytest.raises(TemplateRefused, match="never"):
            prompt_of(prompts, strict, conversation("chat-instruct", "Hi"))
    finally:
        manager.unload()


def test_a_template_that_takes_few_conversations_is_used_nevertheless(prompts: ConversationPrompts) -> None:
    template = "{% if messages|length > 1 %}{{ raise_exception('one only') }}{% endif %}Q: {{ messages[0].content }} A:"
    manager = ModelManager()
    record = dataclasses.replace(echo_plans.record("good"), chat_template=template)
    try:
        single = manager.load(LoadPlan(record, ECHO, echo_plans.SETTINGS))
        made = prompt_of(prompts, single, conversation("instruct", "Hi"))
        assert (made.prompt.text, made.prompt.stop) == ("Q: Hi A:", ())
    finally:
        manager.unload()


def test_the_name_of_the_speaker_does_not_belong_to_the_reply(prompts: ConversationPrompts, model: LoadedModel) -> None:
    for mode, options, text, expected in (
        ("chat", PromptOptions(), " Mia: Hello", "Hello"),
        ("chat-instruct", PromptOptions(), "Tom: Hello", "Hello"),
        ("instruct", PromptOptions(), "Mia: Hello", "Mia: Hello"),
        ("chat", PromptOptions(impersonates=True), "Tom: Hello", "Hello"),
        ("chat", PromptOptions(impersonates=True), "Mia: Hello", "Mia: Hello"),
        ("chat", PromptOptions(impersonates=True, start_with="I"), " am", " am"),
        ("instruct", PromptOptions(impersonates=True), " Tom: Hello", "Tom: Hello"),
    ):
        parser = prompt_of(prompts, model, conversation(mode, "Hi"), options).parser()
        assert "".join(piece for _, piece in [*parser.feed(text), *parser.end()]) == expected, (mode, options)
    begun = prompt_of(
        prompts, model, conversation("chat", "Hi", "She said to "), PromptOptions(continues=True)
    ).parser()
    assert begun.feed(" Mia: no") == [("text", " Mia: no")], "a name within a reply belongs to it"


def test_a_real_model_answers_and_goes_on_in_each_mode(models_folder: Path, prompts: ConversationPrompts) -> None:
    manager = ModelManager()
    record = Catalog(models_folder).models()[0]
    form = {"n_ctx": 512, "threads": 1, "threads_batch": 1}
    params = generation_settings.resolve({"temperature": 0, "max_new_tokens": 12})
    try:
        model = manager.load(
            LoadPlan(record, LLAMA, resolve(LLAMA, model=record.defaults, saved={}, flags={}, form=form))
        )
        for mode in MODES:
            talk = conversation(mode, "Name the capital of France in one English sentence.", "The capital of")
            made = prompts.reply(model, talk, talk.path(), params, PromptOptions(continues=True))
            assert made.prompt.text.endswith("The capital of"), mode
            answer = "".join(event.text for event in model.generate(made.prompt, params) if isinstance(event, Text))
            assert answer.startswith(" France is Paris"), (mode, answer)
    finally:
        manager.unload()
