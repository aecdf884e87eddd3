"""Compare our prompts with those of text-generation-webui, and record the ones that tests expect.

    .venv/bin/python -m tests.support.original_prompts <folder of text-generation-webui 4>

It runs that program's own `generate_chat_prompt` and `get_stopping_strings`, with the parts that they do not need left
out. With its characters and instruction templates the prompts are compared; for the character and the template of
`CASES`, which are ours, they are written to tests/chat/original_prompts.json.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import itertools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

from modules.chat.modes import ConversationPrompts, PromptOptions
from modules.chat.templates import ChatTemplates
from modules.config.yaml_file import YamlFile
from modules.conversations.conversation import Conversation
from modules.loaders import generation_settings
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from tests.conftest import ECHO
from tests.support import echo_plans
from tests.support.dialogues import make_prompts

RECORDED = Path(__file__).parents[1] / "chat" / "original_prompts.json"
COMMAND = "Continue as <|character|>, who talks to {{user}}:\n\n<|prompt|>"
CHARACTER = {
    "name": "Lena",
    "context": "{{char}} keeps a lighthouse.\n\n{{user}}: Is it cold there?\n{{char}}: Only in winter, <USER>.",
    "greeting": "*{{char}} opens the door.* Come in, {{user}}!",
}
TEMPLATE = (
    "{%- for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' }}{{ message['content'] }}"
    "{{ '<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)
USER, BIO, SYSTEM = "Tom", "<USER> is a sailor.", "Be brief."
MODES = ("instruct", "chat", "chat-instruct")
ACTIONS: Mapping[str, PromptOptions] = {
    "reply": PromptOptions(),
    "continue": PromptOptions(continues=True),
    "impersonate": PromptOptions(impersonates=True),
    "impersonate from": PromptOptions(impersonates=True, start_with="The sea"),
    "start with": PromptOptions(start_with="Well,"),
}
DIALOGS: Mapping[str, tuple[str, ...]] = {
    "first": ("How do I get to the top?",),
    "later": ("How do I get to the top?", "By the stairs.\n\nAll 300 of them.", "Is there a lift?"),
}
PARAMS = generation_settings.resolve({"max_new_tokens": 10})

Prompts = tuple[str, list[str]]
"""A prompt, and the strings that end the reply."""


# -- the original ------------------------------------------------------------------------------------------------------


def load_original(folder: Path) -> ModuleType:
    """Import the original's modules/chat.py with stand-ins for everything that it imports of its own."""
    names = ("shared", "utils", "extensions", "html_generator", "image_utils", "logging_colors", "reasoning")
    parts = {name: MagicMock() for name in (*names, "text_generation", "web_search")}
    parts["shared"].configure_mock(bos_token="<s>", eos_token="", tokenizer=None)
    parts["shared"].args.verbose = False
    parts["extensions"].apply_extensions = lambda _name, text, *_: text
    for name, part in parts.items():
        sys.modules[f"modules.{name}"] = part
        setattr(sys.modules["modules"], name, part)
    for package in ("yaml", "PIL"):
        sys.modules.setdefault(package, MagicMock())
    spec = importlib.util.spec_from_file_location("original_chat", folder / "modules" / "chat.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def original_prompt(
    chat: ModuleType, mode: str, character: Mapping[str, str], template: str, action: str, texts: tuple[str, ...],
    chat_template: str,
) -> Prompts:  # fmt: skip
    """Return what the original makes of a conversation. Replies begin in it as its page begins them."""
    options = ACTIONS[action]
    name = character["name"]
    greeting = chat.replace_character_names(character["greeting"], USER, name)
    turns = [*([["<|BEGIN-VISIBLE-CHAT|>", greeting]] if mode != "instruct" else [])]
    turns += [list(pair) for pair in itertools.zip_longest(texts[::2], texts[1::2], fillvalue="")]
    question = ""
    if options.continues or action == "start with":
        turns[-1][1] = options.start_with or "It is 40 m"
    elif not options.impersonates:
        question = turns.pop()[0]
    state = {
        "mode": mode, "name1": USER, "name2": name, "user_bio": BIO, "context": character["context"].strip(),
        "custom_system_message": SYSTEM, "instruction_template_str": template, "chat_template_str": chat_template,
        "chat-instruct_command": COMMAND, "enable_thinking": True, "reasoning_effort": "medium",
        "preserve_thinking": False, "history": {"internal": turns, "visible": turns, "metadata": {}},
    }  # fmt: skip
    prompt = chat.generate_chat_prompt(
        question, state, impersonate=options.impersonates, _continue=options.continues or action == "start with"
    )
    if options.impersonates:
        prompt += options.start_with
    return prompt, sorted(chat.get_stopping_strings(state))


def default_chat_template(folder: Path) -> str:
    """Return the chat template of the original's settings."""
    for line in (folder / "modules" / "shared.py").read_text().splitlines():
        if line.strip().startswith("'chat_template_str':"):
            return str(json.loads(line.partition(":")[2].strip().rstrip(",")))
    raise LookupError("chat_template_str")


# -- ours --------------------------------------------------------------------------------------------------------------


def our_prompt(
    prompts: ConversationPrompts, model: LoadedModel, mode: str, action: str, texts: tuple[str, ...]
) -> Prompts:
    """Return our prompt of the same conversation with the character of the file "one"."""
    options = ACTIONS[action]
    conversation = Conversation("", mode=mode, character="one", system=SYSTEM)
    people = prompts.participants.of(conversation)
    if mode != "instruct":
        conversation.add("assistant", people.fill(people.character.greetings[0]))
    for index, text in enumerate(texts):
        conversation.add(("user", "assistant")[index % 2], text)
    if options.continues:
        conversation.add("assistant", "It is 40 m")
    made = prompts.reply(model, conversation, conversation.path(), PARAMS, options)
    text = made.prompt.text
    return text, sorted(made.prompt.stop)


@contextlib.contextmanager
def owners(character: Mapping[str, str], template: str, chat_template: str = "") -> Iterator[Callable[..., Prompts]]:
    """Yield `our_prompt` for a character and the template of a model."""
    templates, manager = ChatTemplates(), ModelManager()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "characters").mkdir()
        (folder / "characters" / "one.json").write_text(json.dumps(character))
        settings = {"name1": USER, "user_bio": BIO, "chat_instruct_command": COMMAND}
        prompts = make_prompts(folder, templates, **settings, chat_template_str=chat_template)
        record = dataclasses.replace(echo_plans.record("good"), chat_template=template)
        model = manager.load(LoadPlan(record, ECHO, echo_plans.SETTINGS))
        try:
            yield lambda *case: our_prompt(prompts, model, *case)
        finally:
            manager.unload()
            templates.close()


def without_last_space(prompt: str, mode: str, action: str) -> str:
    """Return the original's prompt without the space after the user's name, which models write with the first word."""
    return prompt.rstrip(" ") if (mode, action) == ("chat", "impersonate") else prompt


def cases() -> list[tuple[str, str, str]]:
    """Return all combinations of mode, action and dialog."""
    return list(itertools.product(MODES, ACTIONS, DIALOGS))


def main(folder: Path) -> None:
    chat, chat_template = load_original(folder), default_chat_template(folder)
    recorded = {}
    for mode, action, dialog in cases():
        prompt, stops = original_prompt(chat, mode, CHARACTER, TEMPLATE, action, DIALOGS[dialog], chat_template)
        recorded[f"{mode} / {action} / {dialog}"] = {"prompt": prompt, "stop": stops}
    RECORDED.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n")
    data = folder / "user_data"
    for path in sorted((data / "characters").glob("*.yaml")):
        character: Any = dict(YamlFile(path).read())
        for file in sorted((data / "instruction-templates").glob("*.yaml")):
            template = str(YamlFile(file).read()["instruction_template"])
            compare(chat, character, template, chat_template, f"{path.stem}, {file.stem}")


def compare(chat: ModuleType, character: Mapping[str, str], template: str, chat_template: str, title: str) -> None:
    """Print how many prompts are equal, and those that are not."""
    equal, different = 0, []
    with owners(character, template) as ours:
        for mode, action, dialog in cases():
            expected = original_prompt(chat, mode, character, template, action, DIALOGS[dialog], chat_template)
            made = ours(mode, action, DIALOGS[dialog])
            if made[0] == without_last_space(expected[0], mode, action) and set(expected[1]) <= set(made[1]):
                equal += 1
            else:
                different.append((mode, action, dialog, expected, made))
    print(f"{title}: {equal} equal, {len(different)} different")
    for mode, action, dialog, (prompt, stops), (our, our_stops) in different:
        print("  ", mode, "/", action, "/", dialog)
        if prompt != our:
            print("      theirs", repr(prompt[-90:]), "\n      ours  ", repr(our[-90:]))
        if not set(stops) <= set(our_stops):
            print("      theirs", stops, "\n      ours  ", our_stops)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
