"""The protocol of a kind of server: requests to send, and answers to read, without input and output.

A kind does no input or output of its own. It gets an `Ask` for short requests, and turns generations into bodies that
the engine sends and events that the engine reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from modules.core.errors import WebUIError
from modules.core.events import Json, Note, TokenLogprobs
from modules.core.server_errors import ServerError
from modules.engines.engine_protocol import Operations

DISCOVERY_SECONDS = 5.0
"""Longest wait for the answer to a question of the discovery."""
ASK_SECONDS = 60.0
"""Longest wait for any other short request."""
MOST_TOKENS = 1 << 30
"""Longest context of a server, and the most tokens that it can have counted: what is more is left unknown."""


@dataclass(frozen=True)
class Answer:
    """The answer to a short request: its HTTP status, and the body's JSON. None stands for what is not JSON.

    `error` is what `value` raises: the server's refusal, or that its answer is not a JSON object.
    """

    status: int
    body: Json = None
    error: ServerError | None = None

    @property
    def is_ok(self) -> bool:
        """Whether the server did what it was asked for."""
        return 200 <= self.status < 300

    @property
    def value(self) -> dict[str, Json]:
        """The body, which is an object. Raises `error`."""
        if self.error is not None:
            raise self.error
        body: dict[str, Json] = self.body
        return body


class Ask(Protocol):
    """Send a short request, from any thread but that of the event loop."""

    def __call__(self, path: str, body: Json = None, *, seconds: float = ASK_SECONDS) -> Answer:
        """Return the answer to a GET request, or with a `body` to a POST request. `path` begins with "/".

        Raises an error of `core.server_errors` if there is no answer; a status of 400 or more is an answer.
        """


@dataclass(frozen=True)
class ServerLora:
    """A LoRA that the server offers: its name there, and its number in a server that counts them (llama-server)."""

    name: str
    number: int = -1


@dataclass(frozen=True)
class ServerFacts:
    """Facts about a server, and about the model that is used there.

    `kind` is a name of `discovery.KINDS`, `version` the server's own or "". `model` is the name that requests carry.
    `context_length` is that of one request, `slots` how many run at once; 0 stands for unknown in both, as in
    `vocabulary_size`. `takes_text` tells whether prompts may be text, `takes_ids` whether token ids, `messages` whether
    those of conversations are messages. `counts` tells whether the server counts tokens, `needs_length` whether it
    refuses an answer that might not fit the context, so that its limit depends on the length of the prompt. `bos` is
    the text of the BOS token that the server puts before a prompt, "" if it does not or if that is unknown. `alias` is
    the name of the model in the server's answers, "" if they only repeat the request's. `samplers` are the generation
    parameters of the model, None for those of the kind. `notes` are remarks for the user.
    """

    kind: str
    model: str
    version: str = ""
    context_length: int = 0
    slots: int = 0
    vocabulary_size: int = 0
    takes_text: bool = True
    takes_ids: bool = False
    messages: bool = False
    counts: bool = False
    needs_length: bool = False
    images: bool = False
    bos: str = ""
    alias: str = ""
    chat_template: str = ""
    special_tokens: Mapping[str, Json] = field(default_factory=dict)
    loras: tuple[ServerLora, ...] = ()
    samplers: frozenset[str] | None = None
    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class ServedPrompt:
    """A prompt as it is sent: `tokens`, else `messages`, else `text`.

    `shortened` is the index of the shorter text that was taken of a `Prompt`, -1 for the whole. `length` is the number
    of its tokens, -1 if they were not counted. With `continues`, the last message is to be continued.
    """

    text: str = ""
    tokens: tuple[int, ...] = ()
    messages: tuple[Mapping[str, Json], ...] = ()
    shortened: int = -1
    length: int = -1
    continues: bool = False


@dataclass(frozen=True)
class Piece:
    """The content of one event of the stream. All fields may be empty: such an event only proves that the server lives.

    `tokens` counts those decoded for `text`; `ids` are their ids where the server was asked for them, `prompt_ids`
    those of the prompt, once. `reason` is "stop" or "length" in the last event with text, `stop_string` the one that
    ended the answer, if the server says it. A count of -1 is unknown; counts may come in a later event than `reason`.
    `model` is the `ServerFacts.alias` of the model that has answered, if the server says it. `error` are the server's
    words for what failed. `is_end` marks the end of the stream: nothing follows.
    """

    text: str = ""
    tokens: int = 0
    ids: tuple[int, ...] = ()
    prompt_ids: tuple[int, ...] = ()
    reason: str = ""
    stop_string: str = ""
    logprobs: tuple[TokenLogprobs, ...] = ()
    prompt_tokens: int = -1
    cached_tokens: int = -1
    completion_tokens: int = -1
    model: str = ""
    error: str = ""
    is_end: bool = False


Read = Callable[[bytes], Piece]
"""Return what an event says: the data of a server-sent event, or a line of JSON. Called for every token.

Raises ValueError for what the server could not have sent.
"""


@dataclass(frozen=True)
class GenerateRequest:
    """A POST request that starts a generation, and how to `read` the events of the answer, in their order.

    They are server-sent events, or lines of JSON. `amended` returns the request to send instead after an error that
    came before the answer, None if that is final.
    """

    path: str
    body: Mapping[str, Json]
    read: Read
    is_ndjson: bool = False
    amended: Callable[[WebUIError], GenerateRequest | None] = lambda error: None


def known_counts(**counts: Json) -> dict[str, Any]:
    """Return those fields of a `Piece` that are numbers of tokens which a server can have counted."""
    return {key: count for key, count in counts.items() if type(count) is int and 0 <= count <= MOST_TOKENS}


class ServerKind(Protocol):
    """One kind of server, with the facts about one server of it. Any thread may call.

    `samplers` are the generation parameters that it understands, `abilities` those of `Loader.abilities` that it has.
    `questions` and `operations` are those of `engine_protocol.Operations`; they block, so the engine calls none of them
    in its event loop. `health` is the path of a GET request that succeeds while the server can answer.
    `gives_ids` tells whether the stream has the ids of the tokens, so that a generation can be resumed; llama-server's
    has not those of the prompt, which `tokenize` gives.
    """

    facts: ServerFacts
    samplers: frozenset[str]
    abilities: frozenset[str]
    questions: Operations
    operations: Operations
    health: str
    gives_ids: bool

    def tokenize(self, text: str) -> list[int]:
        """Return the tokens of a prompt, BOS included. Raises Unsupported if the server does not count.

        Asks the server, and raises the errors of `Ask`.
        """

    def request(
        self, prompt: ServedPrompt, params: Mapping[str, Json], *, ids: bool = False, interval: int = 1
    ) -> GenerateRequest:
        """Return the request for a generation by `params`, those of `generation_settings.resolve` and a `Prompt`.

        With `ids`, the events have the ids of tokens, if `gives_ids`. They may come every `interval` tokens, where the
        server can do that. Raises Unsupported, or OptionError, for what the server would not do as it is asked for.
        """
