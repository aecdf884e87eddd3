"""A template that is derived from a server's renderings renders as the server does, or is not used."""

from __future__ import annotations

from collections.abc import Callable

from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.core.events import Json
from modules.engines.served.template_probe import derived_template
from tests.support.served_kinds import CannedServer, chat_text, words_tokenizer

CONVERSATION = [
    {"role": "user", "content": "Hi {{ there }}"},
    {"role": "assistant", "content": "Hello\n'you'"},
    {"role": "user", "content": "Bye"},
]


def server(render: Callable[[Json, bool], str]) -> CannedServer:
    answers = words_tokenizer()
    plain = answers["/tokenize"]

    def tokenize(body: Json) -> Json:
        if "messages" not in body:
            return plain(body)  # type: ignore[operator]
        return {"tokens": [ord(one) for one in render(body["messages"], body["add_generation_prompt"])]}

    return CannedServer({**answers, "/tokenize": tokenize})


def alternating(messages: Json, generation: bool) -> str:
    """Render as Llama 2's template does: the system message belongs to the first question."""
    text, system = "", messages[0]["content"] if messages[0]["role"] == "system" else ""
    for message in messages[bool(system) :]:
        if message["role"] == "user":
            text += f"<s>[INST] {f'<<SYS>>{system}<</SYS>>' if system else ''}{message['content']} [/INST]"
            system = ""
        else:
            text += f" {message['content']} </s>"
    return text


def test_a_derived_template_renders_as_the_server_does() -> None:
    templates = ChatTemplates()
    try:
        for render in (chat_text, alternating):
            template = ModelTemplate("m", derived_template(server(render), "m"))
            assert template.source
            for messages in (CONVERSATION, [{"role": "system", "content": "S"}, *CONVERSATION], CONVERSATION[:1]):
                assert templates.render(template, messages) == render(messages, True)
    finally:
        templates.close()


def test_a_template_that_changes_messages_or_counts_them_is_not_derived() -> None:
    def upper(messages: Json, generation: bool) -> str:
        return chat_text(messages, generation).upper()

    def counting(messages: Json, generation: bool) -> str:
        return f"{len(messages)}\n{chat_text(messages, generation)}"

    def refusing(messages: Json, generation: bool) -> str:
        return "" if messages[0]["role"] == "system" else chat_text(messages, generation)

    def closing(messages: Json, generation: bool) -> str:
        return chat_text(messages, generation) + ("" if generation else "<end>")

    for render in (upper, counting, refusing, closing):
        assert derived_template(server(render), "m") == ""
    assert derived_template(CannedServer({}), "m") == ""
    assert derived_template(CannedServer({"/tokenize": {"tokens": "x"}}), "m") == ""
