"""Find out which kind of server an address has, which model is used there, and what that can do.

All questions are short GET and POST requests that change nothing. SGLang is asked for before Ollama, and other programs
of this kind before llama-server, whose addresses they imitate.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from modules.core.errors import OptionError
from modules.core.events import Info, Json, Note
from modules.engines.served import server_facts
from modules.engines.served.llama_server import LlamaServer
from modules.engines.served.ollama import Ollama
from modules.engines.served.openai import LmStudio, OpenAi
from modules.engines.served.server_facts import AUTO, LONGEST_TEXT, Choices, Wanted
from modules.engines.served.server_kind import DISCOVERY_SECONDS, Ask, ServerFacts, ServerKind
from modules.engines.served.sglang import Sglang
from modules.engines.served.text_studio import TextStudio
from modules.engines.served.vllm import Vllm
from modules.options.load_remote import SERVER_MODEL

__all__ = ["AUTO", "KINDS", "Choices", "discover", "info_of"]

UNKNOWN_CONTEXT = 8192
"""Tokens that the context of a server is taken to have that does not tell it."""
MESSAGES_TEMPLATE = """\
{%- for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content }}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""Gives the length of conversations that are sent as messages, and the marks of thoughts in their answers."""
MOST_MODELS = 10_000
_MOST_NAMED = 12
_NOT_NOW = (401, 403, 429, 502, 503, 504, 508)
"""Statuses of a server that lists its models, but not to us or not yet: a llama-server answers 503 while it loads."""

_NO_CONTEXT = Note(
    "n_ctx",
    {
        "en": f"The server does not tell its context length: {UNKNOWN_CONTEXT} is assumed. Set it if it is another.",
        "zh": f"服务器未告知上下文长度，按 {UNKNOWN_CONTEXT} 处理；如不符请手动设置。",
    },
)


@dataclass(frozen=True)
class _Row:
    """One kind: how a server of it is used, which facts it tells, and the `owned_by` of its models."""

    make: Callable[[Ask, ServerFacts], ServerKind]
    facts: Callable[[Ask, Wanted], ServerFacts]
    answers: Callable[[Ask], bool]
    owners: frozenset[str] = field(default_factory=frozenset)


KINDS: Mapping[str, _Row] = {
    "vllm": _Row(Vllm, server_facts.of_vllm, server_facts.is_vllm, frozenset({"vllm"})),
    "sglang": _Row(Sglang, server_facts.of_sglang, server_facts.is_sglang, frozenset({"sglang"})),
    "text-studio": _Row(TextStudio, server_facts.of_text_studio, server_facts.is_text_studio),
    "llama-server": _Row(
        LlamaServer, server_facts.of_llama_server, server_facts.is_llama_server, frozenset({"llamacpp"})
    ),
    "ollama": _Row(Ollama, server_facts.of_ollama, server_facts.is_ollama),
    "lm-studio": _Row(LmStudio, server_facts.of_lm_studio, server_facts.is_lm_studio),
    "openai": _Row(OpenAi, server_facts.of_openai, lambda ask: True),
}
"""Every kind by its name, in the order in which a server is asked."""


def discover(ask: Ask, choices: Choices) -> ServerKind:
    """Return the kind of a server with the facts about it.

    Raises OptionError for a model that the server does not have, or if there are several and none is chosen; and the
    errors of `Ask`, among them the server's refusal of a missing key.
    """
    listed = ask("/v1/models", seconds=DISCOVERY_SECONDS)
    if listed.status in _NOT_NOW:
        listed.value  # noqa: B018  raises the refusal
    entries = _entries(listed.body)
    name = choices.kind if choices.kind != AUTO else _kind_of(ask, entries)
    row = KINDS[name]
    names = [str(entry["id"]) for entry in entries]
    wanted = Wanted(_model(choices.model, names, entries), entries, choices)
    return row.make(ask, row.facts(ask, wanted))


def info_of(kind: ServerKind, slots: int) -> Info:
    """Return the `Info` of an engine that uses a server, with at most `slots` requests at once."""
    facts = kind.facts
    notes = facts.notes if facts.context_length else (*facts.notes, _NO_CONTEXT)
    return Info(
        context_length=facts.context_length or UNKNOWN_CONTEXT,
        special_tokens=facts.special_tokens,
        chat_template=MESSAGES_TEMPLATE if facts.messages else facts.chat_template,
        notes=notes,
        vocabulary_size=facts.vocabulary_size,
        slots=min(facts.slots or slots, slots),
        abilities=tuple(sorted(kind.abilities)),
        samplers=tuple(sorted(kind.samplers)),
        messages=facts.messages,
        server=facts.kind,
        loras=tuple(lora.name for lora in facts.loras if re.fullmatch(SERVER_MODEL.pattern, lora.name)),
    )


def _entries(body: Json) -> list[dict[str, Json]]:
    """Return the models in the answer to /v1/models, leaving out what cannot be read."""
    data = body.get("data") if isinstance(body, dict) else None
    entries = [entry for entry in data[:MOST_MODELS] if isinstance(entry, dict)] if isinstance(data, list) else []
    return [entry for entry in entries if isinstance(entry.get("id"), str) and len(entry["id"]) <= LONGEST_TEXT]


def _kind_of(ask: Ask, entries: Sequence[Mapping[str, Json]]) -> str:
    """Return the name of the kind that the models say, or else that which answers as a server of it does."""
    owners = {str(entry.get("owned_by")) for entry in entries}
    by_owner = next((name for name, row in KINDS.items() if row.owners & owners), "")
    return by_owner or next(name for name, row in KINDS.items() if row.answers(ask))


def _model(wanted: str, names: Sequence[str], entries: Sequence[Mapping[str, Json]]) -> str:
    """Return the name of the model to use. A server that lists none is asked for the one that is wanted."""
    same = [name for name in names if name == wanted] or [
        name for name in names if name.lower() in (wanted.lower(), f"{wanted}:latest".lower())
    ]
    if wanted and (not names or same):
        return same[0] if same else wanted
    base = [str(entry["id"]) for entry in entries if not entry.get("parent")]
    if not wanted and len(base) == 1:
        return base[0]
    several = ", ".join(base[:_MOST_NAMED]) + (" …" if len(base) > _MOST_NAMED else "")
    expected = {"en": f"one of the server's models: {several}", "zh": f"服务器上的模型之一：{several}"}
    none = {"en": "a name: the server lists no models", "zh": "模型名称：服务器未列出模型"}
    raise OptionError("server_model", wanted, expected if base else none)
