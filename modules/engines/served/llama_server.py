"""llama.cpp's server: the kind "llama-server"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modules.core.events import Json
from modules.core.lora_errors import LoraWithoutEffect
from modules.core.prompt import Prompt
from modules.core.worker_errors import GenerationFailed
from modules.engines import next_token
from modules.engines.engine_protocol import Operations
from modules.engines.served import parameters
from modules.engines.served.llama_candidates import COMPLETION, candidates
from modules.engines.served.logprobs import of_chat
from modules.engines.served.lora import PROBE, TOP, largest_change, not_offered, offered
from modules.engines.served.openai_events import (
    CHAT,
    END_OF_STREAM,
    ChatReader,
    error_text,
    event_of,
    messages_of,
    stream_fields,
)
from modules.engines.served.prompts import ids_in, is_special, served_prompt, without_bos
from modules.engines.served.server_kind import (
    Ask,
    GenerateRequest,
    Piece,
    Read,
    ServedPrompt,
    ServerFacts,
    known_counts,
)
from modules.engines.token_ids import token_pieces
from modules.loaders.server_samplers import SERVER_SAMPLERS

DEFAULT_CONTEXT = 1 << 17
"""Tokens that penalties look back on where the context is unknown: the server allocates them all."""
ORDER = ("penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature")
"""The samplers in the order of our own engine; without it, those that the server was started with."""
_SENT_AS_THEY_ARE = (
    *("top_k", "top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold", "frequency_penalty"),
    *("presence_penalty", "dry_multiplier", "dry_base", "dry_allowed_length", "mirostat_tau", "mirostat_eta"),
)
_REASONS = {"limit": "length", "word": "stop", "eos": "stop"}
_LOWEST_RATIO = 1e-6


class LlamaServer:
    """A llama-server: see `ServerKind`."""

    samplers = SERVER_SAMPLERS["llama-server"]
    health = "/health"
    gives_ids = True

    def __init__(self, ask: Ask, facts: ServerFacts) -> None:
        self.facts, self._ask = facts, ask
        self.abilities = frozenset({"parallel", "next"}) | ({"lora", "loras"} if facts.loras else set())
        self._scales: list[dict[str, Json]] = []
        self.questions: Operations = {
            "encode": self.encode,
            "decode": self.decode,
            "count": lambda text: len(self.encode(text)),
            "pieces": self.pieces,
        }
        loras: Operations = {"apply_loras": self.apply_loras} if facts.loras else {}
        self.operations: Operations = {"next": self.next, **loras}

    def tokenize(self, text: str) -> list[int]:
        return self.encode(without_bos(text, self.facts.bos))

    def encode(self, text: str, add_special: bool = True) -> list[int]:
        """Return the tokens of a text. Raises the errors of `Ask`."""
        return ids_in(self._ask("/tokenize", self._named({"content": text, "add_special": add_special})))

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones by name. Raises the errors of `Ask`."""
        if not tokens:
            return ""
        return str(self._ask("/detokenize", self._named({"tokens": list(tokens)})).value.get("content", ""))

    def pieces(self, text: str, add_special: bool = True) -> list[list[Json]]:
        """Return the tokens of a text with what they stand for: see `engine_protocol.Operations`."""
        body = self._named({"content": text, "add_special": add_special, "with_pieces": True})
        listed = self._ask("/tokenize", body).value.get("tokens") or []
        try:
            parts = [(int(token["id"]), _piece(token["piece"])) for token in listed]
        except (TypeError, KeyError, ValueError) as error:
            raise GenerationFailed("llama-server", "no pieces of a text") from error
        return token_pieces((token, part, is_special(part, self.facts.special_tokens)) for token, part in parts)

    def request(
        self, prompt: ServedPrompt, params: Mapping[str, Json], *, ids: bool = False, interval: int = 1
    ) -> GenerateRequest:
        body = self._named(self._sampling(params))
        body["n_predict"] = parameters.most_tokens(params, prompt, self.facts) or -1
        top = params["top_logprobs"]
        if prompt.messages:
            body |= stream_fields(self.facts.model) | {"messages": messages_of(prompt)}
            if prompt.continues:
                body |= {"continue_final_message": True, "add_generation_prompt": False}
            if top is not None:
                body |= {"logprobs": True, "top_logprobs": max(top, 1)}
            return GenerateRequest(CHAT, body, ChatReader(top))
        text = list(prompt.tokens) or without_bos(prompt.text, self.facts.bos)
        body |= {"prompt": text, "stream": True, "cache_prompt": True}
        if ids:
            body["return_tokens"] = True
        if top is not None:
            body["n_probs"] = max(top, 1)
        return GenerateRequest(COMPLETION, body, completion_reader(top))

    def next(self, prompt: Json, params: Mapping[str, Json], top: int) -> Json:
        """Return the candidates for the token after a prompt: see `engines.next_token`."""
        params = {**next_token.ask_for(params, top), "top_logprobs": None}
        served = served_prompt(Prompt(prompt) if isinstance(prompt, str) else Prompt.from_json(prompt), self, params)
        variants = [(share, self.request(served, one).body) for share, one in next_token.without_chance(params)]
        return candidates(self._ask, variants, top, is_greedy=params["temperature"] <= 0)

    def _sampling(self, params: Mapping[str, Json]) -> dict[str, Any]:
        """Return all parameters that llama-server has: for those left out it takes what it was started with."""
        body: dict[str, Any] = {key: params[key] for key in _SENT_AS_THEY_ARE}
        last = int(params["repetition_penalty_range"]) or self.facts.context_length or DEFAULT_CONTEXT
        body |= _temperature(params) | {
            "samplers": list(ORDER),
            "seed": params["seed"] if params["seed"] >= 0 else -1,
            "top_n_sigma": params["top_n_sigma"] or -1.0,
            "repeat_penalty": params["repetition_penalty"],
            "repeat_last_n": last,
            "dry_penalty_last_n": last,
            "dry_sequence_breakers": parameters.breakers(params),
            "mirostat": params["mirostat_mode"],
            "logit_bias": [*params["logit_bias"], *([token, False] for token in parameters.bans(params))],
            "ignore_eos": params["ban_eos_token"],
            "stop": list(params["stop"]),
        }
        if params.get("visible"):
            body["preserved_tokens"] = list(params["visible"])
        if self._scales:
            body["lora"] = self._scales
        schema = parameters.schema_of(params)
        if schema is not None:
            body["json_schema"] = schema
        elif params["grammar_string"]:
            body["grammar"] = params["grammar_string"]
        return body

    def _named(self, body: Mapping[str, Json]) -> dict[str, Any]:
        """Return a body with the model: a llama-server with many models passes requests on to a process of each."""
        return {"model": self.facts.model, **body}

    def apply_loras(self, adapters: Sequence[Mapping[str, Json]]) -> list[float]:
        """Use these LoRAs from now on, with their weights, and no others; return the effect of each by itself.

        Raises LoraRefused for one that the server was not started with, LoraWithoutEffect, and the errors of `Ask`.
        """
        chosen: list[tuple[str, int, float]] = []
        for adapter in adapters:
            lora = offered(self.facts.loras, str(adapter["name"]), str(adapter["path"]))
            if lora is None:
                raise not_offered(str(adapter["name"]), self.facts.loras)
            chosen.append((str(adapter["name"]), lora.number, float(adapter["weight"])))
        plain = self._probe(()) if chosen else {}
        effects = [self._effect(name, number, weight, plain) for name, number, weight in chosen]
        self._scales = self._all_scales({number: weight for _, number, weight in chosen})
        return effects

    def _effect(self, name: str, number: int, weight: float, plain: Mapping[str, float]) -> float:
        if not weight:
            return 0.0
        effect = largest_change(plain, self._probe(((number, weight),)))
        if effect < _LOWEST_RATIO:
            raise LoraWithoutEffect(name)
        return effect

    def _all_scales(self, weights: Mapping[int, float]) -> list[dict[str, Json]]:
        """Return the scale of every LoRA of the server: those that a request does not name may have another one."""
        return [{"id": lora.number, "scale": weights.get(lora.number, 0.0)} for lora in self.facts.loras]

    def _probe(self, scales: Sequence[tuple[int, float]]) -> dict[str, float]:
        """Return how likely the tokens after PROBE are with these LoRAs, by their ids."""
        body: dict[str, Any] = {"prompt": PROBE, "n_predict": 1, "temperature": 0, "n_probs": TOP}
        answer = self._ask(COMPLETION, self._named({**body, "lora": self._all_scales(dict(scales))}))
        listed = of_chat(answer.value.get("completion_probabilities"), TOP)
        return {str(candidate.id): candidate.logprob for token in listed[:1] for candidate in token.top}


def _temperature(params: Mapping[str, Json]) -> dict[str, Json]:
    """Return the temperature, dynamic or not: as a mean and a range around it."""
    greedy = params["temperature"] <= 0
    if greedy or not params["dynamic_temperature"]:
        return {"temperature": max(params["temperature"], 0.0), "dynatemp_range": 0.0, "dynatemp_exponent": 1.0}
    low, high = params["dynatemp_low"], params["dynatemp_high"]
    return {
        "temperature": (low + high) / 2,
        "dynatemp_range": abs(high - low) / 2,
        "dynatemp_exponent": params["dynatemp_exponent"],
    }


def _piece(piece: Json) -> bytes:
    """Return the bytes of a token: text, or a list of bytes if they are no text."""
    if isinstance(piece, str):
        return piece.encode("utf-8", "replace")
    if not isinstance(piece, list):
        raise ValueError("a piece that is neither")
    return bytes(piece)


def completion_reader(top: int | None) -> Read:
    """Return the reader of an answer of /completion; `top` is the number of candidates, None for none."""

    def read(data: bytes) -> Piece:
        if data == END_OF_STREAM:
            return Piece(is_end=True)
        event = event_of(data)
        text, ids = event.get("content", ""), tuple(event.get("tokens") or ())
        if error := error_text(event):
            return Piece(error=error)
        if not isinstance(text, str):
            raise ValueError("text that is no string")
        logprobs = of_chat(event.get("completion_probabilities"), top) if top is not None else ()
        if not event.get("stop"):
            return Piece(text, len(ids) or int(bool(text)), ids, logprobs=logprobs)
        return Piece(text, len(ids) or int(bool(text)), ids, logprobs=logprobs, **_end(event))

    return read


def _end(event: Mapping[str, Json]) -> dict[str, Any]:
    """Return what the last event says: why the answer ended, and the counts."""
    timings = event.get("timings")
    known = known_counts(
        prompt_tokens=event.get("tokens_evaluated"),
        completion_tokens=event.get("tokens_predicted"),
        cached_tokens=timings.get("cache_n") if isinstance(timings, Mapping) else None,
    )
    reason = _REASONS.get(str(event.get("stop_type")), "stop")
    stop_string, model = str(event.get("stopping_word") or ""), str(event.get("model") or "")
    return {"reason": reason, "stop_string": stop_string, "model": model, "is_end": True} | known
