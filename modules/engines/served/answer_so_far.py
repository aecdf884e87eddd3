"""One answer as far as a server has sent it: what may be shown of it, whether it is complete, and its numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from modules.core.events import Done, Text
from modules.engines.served.server_kind import Piece, ServedPrompt
from modules.engines.text_stream import CHARACTER_TOKENS, TextStream

INCOMPLETE_CHARACTER = "\ufffd"
_HALVES = re.compile("[\ud800-\udfff]")
_FIRST_HALVES = ("\ud800", "\udbff")


class AnswerSoFar:
    """Collects the pieces of one answer, which may come by several responses, one after the other.

    The stop strings are looked for here too, as a server that resumes an answer does not see where one began. With
    `keeps_ids` it remembers what is needed to resume.
    """

    def __init__(
        self, prompt: ServedPrompt, seed: int, stops: Sequence[str], keeps_ids: bool, clock: Callable[[], float]
    ) -> None:
        self.prompt = prompt
        self.prompt_ids: tuple[int, ...] = prompt.tokens
        self.ids: list[int] = []
        self.received: list[str] = []
        self.reason = ""
        self._stop_string = ""
        self._seed, self._keeps_ids = seed, keeps_ids
        self._stream = TextStream(stops)
        self._half = ""
        self._tokens = 0
        self._prompt_tokens, self._cached_tokens, self._completion_tokens = -1, -1, -1
        self._clock = clock
        self._began_at = clock()
        self._first_at: float | None = None
        self._last_at = self._began_at

    @property
    def has_begun(self) -> bool:
        """Whether the server has sent any token."""
        return self._first_at is not None

    @property
    def is_complete(self) -> bool:
        return bool(self.reason)

    def feed(self, piece: Piece) -> Text | None:
        """Add a piece and return the text that may be shown now."""
        if self.is_complete:  # counts may still come
            self._count(piece)
            return None
        if piece.text or piece.tokens or piece.ids:
            self._last_at = self._clock()
            if self._first_at is None:
                self._first_at = self._last_at
        if piece.prompt_ids and not self.prompt_ids:
            self.prompt_ids = piece.prompt_ids
        if self._keeps_ids:
            self.ids += piece.ids
            self.received.append(piece.text)
        self._tokens += piece.tokens
        text = self._stream.feed_text(self._whole(piece.text), piece.tokens, piece.logprobs)
        if self._stream.stopped:
            self.reason, self._stop_string = "stop", self._stream.stop_string
        elif piece.reason:
            self.reason, self._stop_string = piece.reason, piece.stop_string
        self._count(piece)
        return text

    def finish(self) -> Text | None:
        """Return the text that was held back, once the answer is complete or lost."""
        held = None
        if self._half and not self._stream.stopped:
            held = self._stream.feed_text(INCOMPLETE_CHARACTER, 0)
        self._half = ""
        rest = self._stream.finish()
        if held is None or rest is None:
            return held or rest
        return Text(held.text + rest.text, held.tokens + rest.tokens, held.logprobs + rest.logprobs)

    def done(self) -> Done:
        """Return the end of the complete answer. Where the server did not count, tokens are those of its pieces."""
        first = self._first_at if self._first_at is not None else self._last_at
        prompt_tokens = max(self._prompt_tokens, self.prompt.length, len(self.prompt_ids), 0)
        return Done(
            self.reason,
            prompt_tokens=prompt_tokens,
            cached_tokens=min(max(self._cached_tokens, 0), prompt_tokens),
            completion_tokens=max(self._completion_tokens, self._tokens),
            prompt_seconds=first - self._began_at,
            decode_seconds=self._last_at - first,
            shortened=self.prompt.shortened,
            seed=self._seed,
            stop_string=self._stop_string,
        )

    def resumed(self, ids: Sequence[int], rest: str) -> Text | None:
        """Go on after these token ids, which replace those so far. `rest` is text of theirs that had not come."""
        self.ids = list(ids)
        self._prompt_tokens = self._prompt_tokens if self._prompt_tokens >= 0 else len(self.prompt_ids)
        self._half = ""
        return self._stream.feed_text(rest, 0) if rest else None

    def _count(self, piece: Piece) -> None:
        """Take over the server's counts, the first one of the prompt: a resumed one has the answer in it."""
        if self._prompt_tokens < 0:
            self._prompt_tokens, self._cached_tokens = piece.prompt_tokens, piece.cached_tokens
        self._completion_tokens = max(self._completion_tokens, piece.completion_tokens)

    def _whole(self, text: str) -> str:
        """Return text without halves of characters, as JSON may have them: a first half waits for the second."""
        if text.isascii() and not self._half:
            return text
        text, self._half = self._half + text, ""
        if not _HALVES.search(text):
            return text
        if _FIRST_HALVES[0] <= text[-1] <= _FIRST_HALVES[1]:
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def continuation(
    prompt_ids: Sequence[int], ids: Sequence[int], received: str, decode: Callable[[Sequence[int]], str]
) -> tuple[list[int], str] | None:
    """Return the ids after which an answer goes on, and the end of their text that has not been received.

    A server holds back text that may begin a stop string, and the bytes of a character that is not whole. The last ids
    are left out if they end inside a character. Returns None if the ids do not have the text that was received.
    """
    before = decode(prompt_ids)
    for dropped in range(min(CHARACTER_TOKENS, len(ids))):
        kept = list(ids[: len(ids) - dropped])
        whole = decode([*prompt_ids, *kept])
        text = whole[len(before) :]
        if not whole.startswith(before) or not text.startswith(received):
            return None
        if not text.endswith(INCOMPLETE_CHARACTER):
            return kept, text[len(received) :]
    return None
