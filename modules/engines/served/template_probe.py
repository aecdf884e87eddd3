"""Derive a chat template from a server that renders conversations, but does not tell its template: vLLM.

Its /tokenize takes messages; the tokens as text show what stands around each message. Only a template that puts the
same texts around every message of a role can be found in this manner, which most do. It is used if it renders another
conversation to the same tokens; otherwise, conversations are sent as messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from modules.core.events import Json
from modules.engines.served.prompts import ids_of
from modules.engines.served.server_kind import DISCOVERY_SECONDS, Ask

Messages = Sequence[Mapping[str, str]]
_TEMPLATE = (
    "{{%- if messages[0].role == 'system' %}}{{{{ {before_system} + messages[0].content + {after_system} }}}}"
    "{{%- else %}}{{{{ {head} }}}}{{%- endif %}}"
    "{{%- for message in messages %}}"
    "{{%- if message.role == 'user' %}}{{{{ {before_user} + message.content + {after_user} }}}}"
    "{{%- elif message.role == 'assistant' %}}{{{{ {before_reply} + message.content + {after_reply} }}}}"
    "{{%- elif not loop.first %}}{{{{ raise_exception('Only the first message may be of the system.') }}}}"
    "{{%- endif %}}{{%- endfor %}}"
    "{{%- if add_generation_prompt %}}{{{{ {generation} }}}}{{%- endif %}}"
)
_SYSTEM, _FIRST, _SECOND, _REPLY = "Aardvark one.", "Question two?", "Question four?", "Answer three."


@dataclass(frozen=True)
class _Parts:
    """The texts around messages: at the beginning without and with a system message, and around each role's."""

    head: str
    before_system: str
    after_system: str
    before_user: str
    after_user: str
    before_reply: str
    after_reply: str
    generation: str

    def rendered(self, messages: Messages, generation: bool) -> str:
        text, rest = self.head, list(messages)
        if rest[0]["role"] == "system":
            text = self.before_system + rest.pop(0)["content"] + self.after_system
        for message in rest:
            around = {"user": (self.before_user, self.after_user), "assistant": (self.before_reply, self.after_reply)}
            before, after = around[message["role"]]
            text += before + message["content"] + after
        return text + (self.generation if generation else "")

    def template(self) -> str:
        """Return the template in Jinja."""
        quoted = {name: json.dumps(text, ensure_ascii=False) for name, text in vars(self).items()}
        return _TEMPLATE.format(**quoted)


def derived_template(ask: Ask, model: str) -> str:
    """Return a chat template that renders as the server does, "" if none was found."""
    server = _Server(ask, model)
    try:
        parts = _parts(lambda messages, generation: server.text(server.rendered(messages, generation)))
        checked = [_message("system", _SECOND), *_conversation(_REPLY, _FIRST, _SYSTEM)]
        same = all(
            server.tokens(parts.rendered(messages, generation=True)) == server.rendered(messages, generation=True)
            for messages in (checked, checked[1:])
        )
    except (ValueError, KeyError, AttributeError):
        return ""
    return parts.template() if same else ""


def _parts(render: Callable[[Messages, bool], str]) -> _Parts:
    """Return the texts around messages. Raises ValueError if a message is missing or was changed."""
    one = render(_conversation(_FIRST), False)
    three = render(_conversation(_FIRST, _REPLY, _SECOND), False)
    system = render([_message("system", _SYSTEM), *_conversation(_FIRST)], False)
    before_first, after_user = _around(one, _FIRST)
    _, _, rest = three.partition(_FIRST)
    to_reply, _, rest = rest.partition(_REPLY)
    to_second, _, _ = rest.partition(_SECOND)
    before_system, _, rest = system.partition(_SYSTEM)
    to_first, _, _ = rest.partition(_FIRST)
    before_user = _common_end(before_first, to_second, to_first)
    if after_user and before_user.startswith(after_user):  # every message ends with it, not only those of users
        before_user = before_user.removeprefix(after_user)
    generation = render(_conversation(_FIRST), True)
    if not (three.count(_REPLY) == 1 and to_reply.startswith(after_user) and generation.startswith(one)):
        raise ValueError("messages are not rendered one after the other")
    return _Parts(
        head=before_first.removesuffix(before_user),
        before_system=before_system,
        after_system=to_first.removesuffix(before_user),
        before_user=before_user,
        after_user=after_user,
        before_reply=to_reply.removeprefix(after_user),
        after_reply=to_second.removesuffix(before_user),
        generation=generation.removeprefix(one),
    )


def _around(text: str, content: str) -> tuple[str, str]:
    before, found, after = text.partition(content)
    if not found:
        raise ValueError("a message was changed")
    return before, after


def _common_end(*texts: str) -> str:
    """Return the longest text with which all end."""
    length = 0
    while all(len(text) > length and text[-length - 1] == texts[0][-length - 1] for text in texts):
        length += 1
    return texts[0][len(texts[0]) - length :]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


def _conversation(*contents: str) -> list[dict[str, str]]:
    return [_message("assistant" if index % 2 else "user", content) for index, content in enumerate(contents)]


class _Server:
    """Asks a server for tokens. Raises ValueError or KeyError for an answer without them."""

    def __init__(self, ask: Ask, model: str) -> None:
        self._ask, self._model = ask, model

    def rendered(self, messages: Messages, generation: bool) -> list[int]:
        body = {"model": self._model, "messages": list(messages), "add_generation_prompt": generation}
        return ids_of(self._answer("/tokenize", body)["tokens"])

    def tokens(self, text: str) -> list[int]:
        body = {"model": self._model, "prompt": text, "add_special_tokens": False}
        return ids_of(self._answer("/tokenize", body)["tokens"])

    def text(self, tokens: list[int]) -> str:
        body = {"model": self._model, "tokens": tokens}
        return str(self._answer("/detokenize", body)["prompt"])

    def _answer(self, path: str, body: Json) -> Mapping[str, Json]:
        answer = self._ask(path, body, seconds=DISCOVERY_SECONDS)
        if not answer.is_ok or not isinstance(answer.body, dict):
            raise ValueError(f"no answer of {path}")
        return answer.body
