"""Generation parameters as they are sent to servers: what most of their APIs have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping

from modules.core.answer_grammar import LENIENT, AnswerGrammar
from modules.core.errors import OptionError, Unsupported
from modules.core.events import Json
from modules.engines.served.server_kind import ServedPrompt, ServerFacts

BAN = -100.0
"""The bias of a banned token where -inf is no number: OpenAI's API has no lower one."""


def most_tokens(params: Mapping[str, Json], prompt: ServedPrompt, facts: ServerFacts) -> int:
    """Return how many tokens the answer may have, so that it fits the context; 0 for no limit that is known."""
    wanted, context = int(params["max_new_tokens"]), facts.context_length
    room = context - max(prompt.length, 0) if context else 0
    return min(wanted, room) if wanted and room else wanted or (room if prompt.length >= 0 else 0)


LOWEST_TOP_P = 1e-6
"""Stands for a top_p of 0, which vLLM and SGLang refuse: with either, only the most likely token is left."""


def least_tokens(params: Mapping[str, Json], most: int) -> int:
    """Return how many tokens the answer must have, no more than `most` unless that is 0, which servers refuse."""
    least = int(params["min_length"])
    return min(least, most) if most else least


def biases(params: Mapping[str, Json]) -> dict[str, float]:
    """Return what is added to the logits of tokens, by their ids; a ban is BAN and overrides another bias."""
    return {str(token): float(bias) for token, bias in params["logit_bias"]} | dict.fromkeys(
        map(str, bans(params)), BAN
    )


def bans(params: Mapping[str, Json]) -> list[int]:
    """Return the ids of the tokens that must not be sampled."""
    return [int(word) for word in params["custom_token_bans"].split(",") if word.strip()]


def breakers(params: Mapping[str, Json]) -> list[str]:
    """Return the strings that end a sequence for DRY."""
    strings: list[str] = json.loads(f"[{params['dry_sequence_breakers']}]")
    return strings


def temperature(params: Mapping[str, Json], samplers: frozenset[str]) -> float:
    """Return the temperature, which is 0 for greedy sampling."""
    greedy = "do_sample" in samplers and not params["do_sample"]
    return 0.0 if greedy else float(params["temperature"])


def openai_sampling(params: Mapping[str, Json], samplers: frozenset[str]) -> dict[str, Json]:
    """Return temperature, seed, stop strings and biases in the fields that OpenAI has for them, if they are set."""
    body: dict[str, Json] = {"temperature": temperature(params, samplers)}
    if params["seed"] >= 0:
        body["seed"] = params["seed"]
    if params["stop"]:
        body["stop"] = list(params["stop"])
    if added := biases(params):
        body["logit_bias"] = added
    return body


def schema_of(params: Mapping[str, Json]) -> Json:
    """Return the JSON schema that the answer must match, None for none.

    Raises Unsupported for a form of answers that is no schema alone. A thought before the JSON may be left out.
    """
    tree = params.get("answer_grammar")
    if not tree:
        return None
    needed = _without_optional(tree)
    if needed and needed[0] == "json":
        return without_marks(needed[1])
    raise no_grammar(str(params.get("grammar_field", "response_format")))


def _without_optional(node: AnswerGrammar) -> AnswerGrammar:
    """Return a grammar of fewer answers, all of which match `node`: without the parts that may be left out."""
    kind, *parts = node
    if kind != "all":
        return node
    kept = [_without_optional(part) for part in parts if part[0] not in ("maybe", "space")]
    return kept[0] if len(kept) == 1 else ["all", *kept]


def without_marks(schema: Json) -> Json:
    """Return a schema without LENIENT, which is for our own engines: servers enforce what they can."""
    if isinstance(schema, list):
        return [without_marks(item) for item in schema]
    if isinstance(schema, dict):
        return {key: without_marks(value) for key, value in schema.items() if key != LENIENT}
    return schema


def no_grammar(field: str) -> Unsupported:
    """Return the refusal of a form of answers that a server cannot be asked for."""
    return Unsupported(
        {
            "en": f"{field} is not supported by this server: it cannot enforce that form of answer.",
            "zh": f"此服务器不支持 {field}：无法强制这种形式的回复。",
        }
    )


def missing(en: str, zh: str) -> Unsupported:
    """Return the refusal of something else that a server cannot be asked for, named in both languages."""
    return Unsupported({"en": f"This server does not support {en}.", "zh": f"此服务器不支持{zh}。"})


def limited(name: str, count: int, most: int) -> int:
    """Return `count`, the value of the parameter `name`. Raises OptionError if it is more than the server allows."""
    if count > most:
        raise OptionError(name, count, {"en": f"at most {most}", "zh": f"不超过 {most} 的数"})
    return count
