"""Write the answer to a request in the format of Anthropic's API: a message of content blocks."""

from __future__ import annotations

import hashlib
import json
import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from modules.api.error_shapes import anthropic_error
from modules.api.ignored_fields import ignored_header, shortened
from modules.api.responses import typed_event
from modules.api.sse import StreamStyle
from modules.core.errors import WebUIError
from modules.core.events import Done, Json, Text
from modules.core.pieces import ARGUMENTS, CALL, REASONING, TEXT, Piece, ReplyParser

_LETTERS = string.ascii_letters + string.digits
_ID_LENGTH = 24


def _error_event(error: WebUIError, language: str) -> bytes:
    return typed_event(anthropic_error(error.say_elsewhere(language), error.status))


ANTHROPIC = StreamStyle(typed_event({"type": "ping"}), _error_event)


def new_id(prefix: str) -> str:
    return prefix + "".join(secrets.choice(_LETTERS) for _ in range(_ID_LENGTH))


class MessageFormat:
    """Build one message. `parser` splits the reply, of whose thought with `hides_thought` only the end is shown.

    `stops` are the strings that the request wants the answer to end at, `prompt_tokens` is an estimate for the
    beginning of a stream, and `ignored` are the fields of the request that the answer does without.
    """

    def __init__(
        self,
        model: str,
        parser: ReplyParser,
        stops: Sequence[str] = (),
        ignored: Sequence[str] = (),
        prompt_tokens: int = 0,
        hides_thought: bool = False,
    ) -> None:
        self._model, self._parser, self._stops, self._ignored = model, parser, stops, ignored
        self._prompt_tokens = prompt_tokens
        self._blocks = ContentBlocks(hides_thought)
        self._thinking_tokens = 0
        self.headers = ignored_header(ignored)

    # -- whole ------------------------------------------------------------------------------------------------------

    def whole(self, answers: Sequence[Sequence[Text]], ends: Mapping[int, Done]) -> Json:
        events = [event for piece in answers[0] for event in self._written(piece)]
        events += [*self._blocks.write(self._parser.end()), *self._blocks.end()]
        content, broken = collect(events)
        self._blocks.has_calls = any(block["type"] == "tool_use" for block in content)
        end = self._delta(ends[0])
        message = {**self._message(content), **end["delta"], "usage": end["usage"]}
        ignored = shortened([*self._ignored, *self._parser.faults, *broken])
        return {**message, "ignored": ignored} if ignored else message

    # -- in events ------------------------------------------------------------------------------------------------

    def sse_opening(self, number: int) -> bytes:
        usage = {"input_tokens": self._prompt_tokens, "output_tokens": 0}
        message = {**self._message([]), "stop_reason": None, "stop_sequence": None, "usage": usage}
        return typed_event({"type": "message_start", "message": message})

    def sse_text(self, number: int, piece: Text) -> bytes:
        return b"".join(map(typed_event, self._written(piece)))

    def sse_end(self, number: int, end: Done, last: bool = False) -> bytes:
        events = [*self._blocks.write(self._parser.end()), *self._blocks.end()]
        ignored = shortened([*self._ignored, *self._parser.faults])
        delta = {"type": "message_delta", **self._delta(end), **({"ignored": ignored} if ignored else {})}
        return b"".join(map(typed_event, [*events, delta]))

    def sse_closing(self, ends: Mapping[int, Done]) -> bytes:
        return typed_event({"type": "message_stop"})

    # -- parts ----------------------------------------------------------------------------------------------------

    def _message(self, content: Json) -> dict[str, Json]:
        facts = {"id": new_id("msg_"), "type": "message", "role": "assistant", "model": self._model}
        return {**facts, "content": content}

    def _written(self, piece: Text) -> Iterator[Json]:
        """Yield the events of the next piece, and count the tokens of the thought."""
        was_inside, pieces = self._parser.inside, self._parser.feed(piece.text)
        if was_inside or self._parser.inside:
            self._thinking_tokens += piece.tokens
        yield from self._blocks.write(pieces)

    def _delta(self, end: Done) -> dict[str, Json]:
        """Return why the answer ended, and the numbers of tokens; those found in the cache count apart."""
        reason, sequence = "end_turn", None
        if end.reason == "length":
            reason = "max_tokens"
        elif self._blocks.has_calls:
            reason = "tool_use"
        elif end.stop_string in self._stops and end.stop_string:
            reason, sequence = "stop_sequence", end.stop_string
        usage = {
            "input_tokens": end.prompt_tokens - end.cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": end.cached_tokens,
            "output_tokens": end.completion_tokens,
            "output_tokens_details": {"thinking_tokens": self._thinking_tokens},
        }
        return {"delta": {"stop_reason": reason, "stop_sequence": sequence}, "usage": usage}


class ContentBlocks:
    """Make the events of content blocks from the pieces of a reply.

    A text block begins with the first character that is no white space: what stands between a thought and a call is
    no text.
    """

    def __init__(self, hides_thought: bool = False) -> None:
        self._hides_thought = hides_thought
        self._index = -1
        self._kind = ""  # of the open block
        self._blank = ""
        self._thought = hashlib.sha256()
        self.has_calls = False

    def write(self, pieces: Sequence[Piece]) -> Iterator[Json]:
        for kind, text in pieces:
            if kind == CALL:
                yield from self._open(kind, {"type": "tool_use", "id": new_id("toolu_"), "name": text, "input": {}})
                self.has_calls = True
            elif kind == ARGUMENTS:
                yield self._delta({"type": "input_json_delta", "partial_json": text})
            elif kind == REASONING:
                yield from self._write_thought(text)
            else:
                yield from self._write_text(text)

    def end(self) -> Iterator[Json]:
        """Close the last block."""
        if self._kind == REASONING:
            yield self._delta({"type": "signature_delta", "signature": self._thought.hexdigest()})
        if self._kind:
            yield {"type": "content_block_stop", "index": self._index}
        self._kind = self._blank = ""

    def _write_thought(self, text: str) -> Iterator[Json]:
        if self._kind != REASONING:
            yield from self._open(REASONING, {"type": "thinking", "thinking": "", "signature": ""})
            self._thought = hashlib.sha256()
        self._thought.update(text.encode())
        if not self._hides_thought:
            yield self._delta({"type": "thinking_delta", "thinking": text})

    def _write_text(self, text: str) -> Iterator[Json]:
        if self._kind != TEXT:
            self._blank += text
            if not self._blank.strip():
                return
            text = self._blank
            yield from self._open(TEXT, {"type": "text", "text": ""})
        yield self._delta({"type": "text_delta", "text": text})

    def _open(self, kind: str, block: Json) -> Iterator[Json]:
        yield from self.end()
        self._kind, self._index = kind, self._index + 1
        yield {"type": "content_block_start", "index": self._index, "content_block": block}

    def _delta(self, delta: Json) -> Json:
        return {"type": "content_block_delta", "index": self._index, "delta": delta}


def collect(events: Sequence[Json]) -> tuple[list[Json], list[str]]:
    """Return the blocks that `events` build, and the names of calls that were cut off, which are left out.

    A client would run such a call without its arguments.
    """
    blocks: list[dict[str, Any]] = []
    arguments: dict[int, str] = {}
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append(dict(event["content_block"]))
        elif event["type"] == "content_block_delta":
            index, (_, (field, text)) = event["index"], event["delta"].items()
            if field == "partial_json":
                arguments[index] = arguments.get(index, "") + text
            else:
                blocks[index][field] += text
    whole: list[Json] = []
    broken: list[str] = []
    for index, block in enumerate(blocks):
        if block["type"] == "tool_use":
            try:
                block["input"] = json.loads(arguments.get(index, ""))
            except ValueError:
                broken.append(f"content[{index}].input")
                continue
        whole.append(block)
    return whole, broken
