"""Build the answers of OpenAI's completions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modules.api.responses import INCOMPLETE_CHARACTER, ResponseBuilder
from modules.core.events import Json, Text, TokenLogprobs


class CompletionResponseBuilder(ResponseBuilder):
    """Build completions; the text of each begins with its item of `echoes`: its prompt, or ""."""

    object = chunk_object = "text_completion"
    prefix = "cmpl"

    def __init__(
        self, model: str, prompts: int, usage_chunk: bool, echoes: Sequence[str], ignored: Sequence[str] = ()
    ) -> None:
        super().__init__(model, prompts, usage_chunk, ignored)
        self._echoes = echoes
        self._offsets = [TextOffsets() for _ in echoes]

    def opening(self, number: int) -> Json:
        return self._choice(number, self._echoes[number]) if self._echoes[number] else None

    def delta(self, text: str) -> dict[str, Json]:
        return {"text": text}

    def message(self, number: int, pieces: Sequence[Text]) -> dict[str, Json]:
        return {"text": self._echoes[number] + "".join(piece.text for piece in pieces)}

    def logprobs(self, number: int, pieces: Iterable[Text]) -> Json:
        listed = list(pieces)
        tokens = [token for piece in listed for token in piece.logprobs]
        return {
            "tokens": [token.chosen.text for token in tokens],
            "token_ids": [token.chosen.id for token in tokens],
            "token_logprobs": [token.chosen.logprob for token in tokens],
            "top_logprobs": [_candidates(token) for token in tokens],
            "text_offset": [offset for piece in listed for offset in self._offsets[number].of(piece)],
        }


class TextOffsets:
    """Track where each token begins in an answer's text, in characters."""

    def __init__(self) -> None:
        self._next = 0
        self._shown = 0

    def of(self, piece: Text) -> list[int]:
        """Return the offsets of the tokens of `piece`.

        Tokens may run ahead of the text, which is held back for stop strings. The length of a token that ends within
        a character is unknown; after one, offsets continue from the text that was shown.
        """
        offsets = []
        for token in piece.logprobs:
            offsets.append(self._next)
            self._next += len(token.chosen.text)
        self._shown += len(piece.text)
        if any(INCOMPLETE_CHARACTER in token.chosen.text for token in piece.logprobs):
            self._next = self._shown
        return offsets


def _candidates(token: TokenLogprobs) -> dict[str, float]:
    """Return the likeliest tokens and the chosen one: an unlikely one is added to those requested, as by OpenAI."""
    return {token.text: token.logprob for token in reversed((token.chosen, *reversed(token.top)))}
