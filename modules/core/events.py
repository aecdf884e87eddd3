"""What a worker says while it works, and how it is written on the wire: one JSON object a line.

A call ends with exactly one of `Result` (its value), `Done` (the end of a generation) or `Failed`.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from modules.core.errors import WebUIError, Words

Json = Any
"""What `json` can carry: None, bool, int, float, str, and lists and string-keyed dicts of these."""


@dataclass(frozen=True)
class Logprob:
    """One candidate for one position: its token's text and natural-log probability, under the model's plain logits."""

    text: str
    logprob: float


@dataclass(frozen=True)
class TokenChances:
    """The token chosen at one position, and the most likely candidates there, best first."""

    chosen: Logprob
    top: tuple[Logprob, ...] = ()


@dataclass(frozen=True)
class Text:
    """A piece of the answer: whole characters only. `tokens` is how many tokens were decoded to get it."""

    text: str
    tokens: int = 1
    chances: tuple[TokenChances, ...] = ()


@dataclass(frozen=True)
class Progress:
    """How far a call has come: `done` of 1.0. `stage` is "weights", "prompt" or "kernels", which may be compiled."""

    stage: str
    done: float


@dataclass(frozen=True)
class Waiting:
    """The call has not begun, or had to stop for lack of room; `place` is its place in the queue (1 = it is next)."""

    place: int


@dataclass(frozen=True)
class Result:
    """The value of a call that is no generation."""

    value: Json


@dataclass(frozen=True)
class Note:
    """What became of an option that could not do what it says, to be shown beside it and by `--explain`."""

    option: str
    text: Words


@dataclass(frozen=True)
class Info:
    """What a worker knows of the model it has loaded. `memory` is the worker's resident set in bytes."""

    context_length: int
    bos_token: str = ""
    eos_token: str = ""
    chat_template: str = ""
    memory: int = 0
    notes: tuple[Note, ...] = ()

    def to_json(self) -> Json:
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(body: dict[str, Json]) -> Info:
        return Info(**(body | {"notes": tuple(Note(**note) for note in body["notes"])}))


@dataclass(frozen=True)
class Done:
    """The end of a generation. `reason` is "stop" (end token or stop string), "length" or "cancelled".

    Times are seconds: of evaluating the prompt, and of decoding what followed.
    """

    reason: str
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0


@dataclass(frozen=True)
class Failed:
    error: WebUIError


Event = Text | Progress | Waiting | Result | Done | Failed
ENDS = (Result, Done, Failed)

_quoted = json.encoder.encode_basestring_ascii
_KINDS = {kind.__name__: kind for kind in (Text, Progress, Waiting, Result, Done)}


def to_line(call: int, event: Event) -> bytes:
    """`event` of call number `call`, as one line with its newline."""
    if isinstance(event, Failed):
        body: dict[str, Json] = event.error.to_json()
    elif isinstance(event, Text) and not event.chances:  # once a token: the same, ten times faster
        return b'[%d,"Text",{"text":%b,"tokens":%d}]\n' % (call, _quoted(event.text).encode(), event.tokens)
    else:
        body = dataclasses.asdict(event)
    return json.dumps([call, type(event).__name__, body], separators=(",", ":")).encode() + b"\n"


def from_line(line: bytes) -> tuple[int, Event]:
    """The inverse of `to_line`; ValueError or KeyError if the line is none of ours."""
    call, kind, body = json.loads(line)
    if kind == Failed.__name__:
        return call, Failed(WebUIError.from_json(body))
    if kind == Text.__name__ and "chances" in body:
        body["chances"] = tuple(_chances(each) for each in body["chances"])
    return call, _KINDS[kind](**body)


def _chances(body: dict[str, Json]) -> TokenChances:
    return TokenChances(Logprob(**body["chosen"]), tuple(Logprob(**each) for each in body["top"]))
