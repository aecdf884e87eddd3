"""Events that a worker sends, and their form on the wire: one JSON array a line.

Most lines have one event. Texts of many calls share a line: parsing one array is several times faster than parsing as
many lines. A call ends with exactly one of `Result` (its value), `Done` (the end of a generation) or `Failed`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from modules.core import quick_json
from modules.core.errors import WebUIError, Words
from modules.core.fill_in_middle import FimTokens

Json = Any
"""A JSON value: None, bool, int, float, str, and lists and string-keyed dicts of these."""


@dataclass(frozen=True)
class Logprob:
    """A candidate for one position: the token's text, its natural-log probability before any sampler, and its id."""

    text: str
    logprob: float
    id: int


@dataclass(frozen=True)
class TokenLogprobs:
    """The sampled token of one position, and the most likely candidates, best first.

    `piece` is what the token adds to the answer, as hexadecimal digits of UTF-8. It may end inside a character, or be
    empty where a later token has the whole character. The pieces of all tokens of an answer, one after the other, are
    its text; a stop string and what follows it in the same token are in the pieces, but not in the text.
    """

    chosen: Logprob
    top: tuple[Logprob, ...] = ()
    piece: str = ""


@dataclass(frozen=True)
class Text:
    """A piece of the answer, whole characters only. `tokens` counts the tokens decoded for it."""

    text: str
    tokens: int = 1
    logprobs: tuple[TokenLogprobs, ...] = ()


@dataclass(frozen=True)
class Progress:
    """Progress of a call: `done` from 0 to 1.

    `stage` is "weights", "prompt", "kernels" (being compiled), "server" (a server starts) or "machines" (other machines
    are waited for, on which `commands` are to be run).
    """

    stage: str
    done: float
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Waiting:
    """A generation that has not begun, or was paused for lack of KV cache. `position` in the queue counts from 1."""

    position: int


@dataclass(frozen=True)
class Begun:
    """The facts of a generation that begins: its prompt and its seed, as in `Done`. The parent keeps them to itself."""

    prompt_tokens: int
    shortened: int = -1
    seed: int = -1


@dataclass(frozen=True)
class ServerState:
    """Whether the server of a model answers. It is no event of a call: its number is NO_CALL."""

    is_reachable: bool


@dataclass(frozen=True)
class Result:
    """The value of a call other than a generation."""

    value: Json


@dataclass(frozen=True)
class Note:
    """Why an option has no effect or another one than it says; shown beside the option and by `--explain`."""

    option: str
    text: Words


@dataclass(frozen=True)
class Info:
    """Facts about a loaded model. `memory` is the worker's resident set in bytes.

    `special_tokens` has the texts of its special tokens by transformers' names, such as "bos_token"; where one name
    stands for several, a list. The ids of its tokens are below `vocabulary_size`. `fim` has the tokens with which the
    model fills in the middle of a text, None if it has none. `images` tells whether it reads pictures, `slots` how many
    generations run at once. `task` is "" for a model that generates text, "embed" for
    one whose answers are vectors of so many `dimensions`, which may be cut if it `may_shorten`, "rank" for scores.
    `abilities` and `samplers` replace those of the loader's row, None does not: a server decides what it can do.
    `messages` tells whether it takes conversations as messages only, whose prompts it makes itself. `server` is the
    kind of server that generates, "" if the worker does; `loras` are the names of the LoRAs that it offers.
    """

    context_length: int
    special_tokens: Mapping[str, Json] = field(default_factory=dict)
    chat_template: str = ""
    memory: int = 0
    notes: tuple[Note, ...] = ()
    vocabulary_size: int = 0
    fim: FimTokens | None = None
    images: bool = False
    slots: int = 1
    task: str = ""
    dimensions: int = 0
    may_shorten: bool = False
    abilities: tuple[str, ...] | None = None
    samplers: tuple[str, ...] | None = None
    messages: bool = False
    server: str = ""
    loras: tuple[str, ...] = ()

    def to_json(self) -> Json:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(body: dict[str, Json]) -> Info:
        fim = body["fim"]
        converted = {
            "notes": tuple(Note(**note) for note in body["notes"]),
            "loras": tuple(body["loras"]),
            "fim": FimTokens(**fim | {"stops": tuple(fim["stops"])}) if fim else None,
            **{key: None if body[key] is None else tuple(body[key]) for key in ("abilities", "samplers")},
        }
        return Info(**body | converted)


@dataclass(frozen=True)
class Done:
    """The end of a generation. `reason` is "stop" (end token or stop string), "length" or "cancelled".

    Seconds are of the prefill and of decoding. `cached_tokens` of the prompt were found in the KV cache. `shortened` is
    the index of the shorter text that was taken of a `Prompt`, -1 if none was. `seed` is the one that was used, even if
    it was drawn; -1 if the parameters had none. `stop_string` is the one that ended the answer, "" for none.
    `drafted_tokens` were evaluated before it was known whether they come next, and `accepted_tokens` of them did.
    """

    reason: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    shortened: int = -1
    seed: int = -1
    stop_string: str = ""
    drafted_tokens: int = 0
    accepted_tokens: int = 0


@dataclass(frozen=True)
class Failed:
    error: WebUIError


Event = Text | Progress | Waiting | Begun | Result | Done | Failed
NO_CALL = 0
ENDS = (Result, Done, Failed)

_TEXTS = "Texts"
_quoted = json.encoder.encode_basestring_ascii
_FLAT = (Progress, Waiting, Begun, ServerState, Done)
"""Kinds whose fields are JSON as they are."""
_KINDS = {kind.__name__: kind for kind in (Text, Progress, Waiting, Begun, ServerState, Result, Done)}


def to_line(call: int, event: Event | ServerState) -> bytes:
    """Return `event` of call number `call` as one line, newline included."""
    if isinstance(event, Failed):
        body = event.error.to_json()
    else:
        body = vars(event) if isinstance(event, _FLAT) else dataclasses.asdict(event)
    return json.dumps([call, type(event).__name__, body], separators=(",", ":")).encode() + b"\n"


def text_item(call: int, event: Text) -> str:
    """Return a text without log-probabilities as an item of `texts_line`. This runs once per token."""
    return f"[{call},{_quoted(event.text)},{event.tokens}]"


def texts_line(items: Iterable[str]) -> bytes:
    """Return the line of many texts, newline included. Those of one call are in order."""
    return f'[0,"{_TEXTS}",[{",".join(items)}]]\n'.encode("ascii")


def from_line(line: bytes) -> list[tuple[int, Event | ServerState]]:
    """Return the events of a line, each with its call. Raises ValueError, KeyError or TypeError for any other line."""
    call, kind, body = quick_json.decode(line)
    if kind == _TEXTS:
        return [(number, Text(text, tokens)) for number, text, tokens in body]
    if kind == Failed.__name__:
        return [(call, Failed(WebUIError.from_json(body)))]
    if kind == Text.__name__:
        body["logprobs"] = tuple(_token_logprobs(position) for position in body["logprobs"])
    if kind == Progress.__name__:
        body["commands"] = tuple(body["commands"])
    return [(call, _KINDS[kind](**body))]


def _token_logprobs(body: dict[str, Json]) -> TokenLogprobs:
    top = tuple(Logprob(**candidate) for candidate in body["top"])
    return TokenLogprobs(Logprob(**body["chosen"]), top, body["piece"])
