"""Prompts are those that transformers renders: the template is found in the same files and gets the same variables."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from modules.chat.mending import mend
from modules.chat.message import Message
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.core.events import Info
from tests.support.checkpoint_files import only_record
from tests.support.forked import forked
from tests.support.template_table import CHATML, SPECIAL_TOKENS, TEMPLATES
from tests.support.tokenizer_folder import write_tokenizer

pytestmark = pytest.mark.usefixtures("backend")

SYSTEM: Message = {"role": "system", "content": "Be brief."}
QUESTION: Message = {"role": "user", "content": " What is <b>1 + 1</b>? 你好 "}
ANSWER: Message = {"role": "assistant", "content": "Two,\n\tthree", "reasoning_content": "hmm"}
NAMED: Message = {"role": "user", "content": "And then?", "name": "Ada", "unset": None}

CONVERSATIONS: dict[str, list[Message]] = {
    "a question": [QUESTION],
    "a system message": [SYSTEM, QUESTION],
    "several turns": [QUESTION, ANSWER, NAMED],
    "an answer at the end": [QUESTION, ANSWER],
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"continue_last": True},
    {"template_kwargs": {"enable_thinking": False, "documents": [{"title": "t", "text": "x"}]}},
]


def layouts() -> dict[str, dict[str, Any]]:
    """Return the files of a tokenizer, by where its template is."""
    other = "other {{ messages | length }}"
    config = {"tokenizer_config.json": {"chat_template": "old"}}
    return {
        "config": {"tokenizer_config.json": {"chat_template": CHATML}},
        "a file": {"chat_template.jinja": CHATML, **config},
        "a file and named ones": {"chat_template.jinja": CHATML, "additional_chat_templates/tool_use.jinja": other},
        "a list": {
            "tokenizer_config.json": {
                "chat_template": [{"name": "tool_use", "template": other}, {"name": "default", "template": CHATML}]
            }
        },
        "the processor's file": {"chat_template.json": {"chat_template": CHATML}, "tokenizer_config.json": {}},
    }


def reference(folders: list[Path], cases: list[tuple[list[Message], dict[str, Any]]]) -> list[Any]:
    """Return by folder what transformers renders for each case, the special tokens and the template it found."""
    from transformers import AutoTokenizer

    from modules.engines.hf.token_text import TextTokenizer

    results = []
    for folder in folders:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
        template = tokenizer.chat_template or json.loads((folder / "chat_template.json").read_text())["chat_template"]
        tokenizer.chat_template = template
        texts = []
        for messages, options in cases:
            goes_on = options.get("continue_last", False)
            arguments = {"continue_final_message": goes_on, "add_generation_prompt": not goes_on}
            arguments |= options.get("template_kwargs", {})
            texts.append(tokenizer.apply_chat_template([dict(m) for m in messages], tokenize=False, **arguments))
        results.append((texts, TextTokenizer(tokenizer).special_tokens, TextTokenizer(tokenizer).chat_template))
    return results


def cases_for(conversations: Mapping[str, list[Message]]) -> list[tuple[list[Message], dict[str, Any]]]:
    return [
        (messages, options)
        for messages in conversations.values()
        for options in OPTIONS
        if not options.get("continue_last") or messages[-1]["role"] == "assistant"
    ]


def test_prompts_are_those_of_transformers(tmp_path: Path, subtests: pytest.Subtests) -> None:
    templates = ChatTemplates()
    cases = cases_for({name: chat for name, chat in CONVERSATIONS.items() if name != "a system message"})
    with_system = cases_for({"a system message": CONVERSATIONS["a system message"]})
    sources = {name: {"tokenizer_config.json": {"chat_template": source}} for name, source in TEMPLATES.items()}
    folders = {
        name: write_tokenizer(tmp_path / str(index) / "tiny", files)
        for index, (name, files) in enumerate({**sources, **layouts()}.items())
    }
    models, mended, records = {}, {}, {}
    for name, folder in folders.items():
        records[name] = only_record(folder.parent)
        models[name] = ModelTemplate.of(records[name], Info(0, special_tokens=SPECIAL_TOKENS))
        features = templates.features(models[name])
        chosen = [*cases, *(with_system if features.system else [])]
        mended[name] = [(mend(messages, features), options) for messages, options in chosen]
        if not features.parts:
            assert [messages for messages, _ in mended[name]] == [
                [{key: value for key, value in message.items() if value is not None} for message in messages]
                for messages, _ in chosen
            ], "a template that takes a conversation gets it unchanged"
    results = forked(references, [(folders[name], mended[name]) for name in folders])
    for name, (texts, special_tokens, found) in zip(folders, results, strict=True):
        with subtests.test(name):
            assert special_tokens == SPECIAL_TOKENS
            assert records[name].chat_template == found
            chosen = [*cases, *(with_system if len(texts) > len(cases) else [])]
            assert [templates.render(models[name], messages, **options) for messages, options in chosen] == texts


def references(work: list[tuple[Path, list[tuple[list[Message], dict[str, Any]]]]]) -> list[Any]:
    return [result for folder, cases in work for result in reference([folder], cases)]
