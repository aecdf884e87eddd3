"""The operation "loglikelihoods": how likely a model finds the tokens of a text. The pure part.

`Loglikelihoods` is the result as the main process reads it; `Window` plans in which pieces an engine evaluates the
tokens, so that neither the logits of many tokens lie in memory at once nor other requests wait for long.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from modules.core.errors import OptionError
from modules.core.events import Json
from modules.core.worker_errors import PromptTooLong
from modules.engines.token_ids import check_token_id

MAX_LOGITS_BYTES = 128 << 20
"""Memory for the logits of one piece, in float32: 682 tokens of a vocabulary of 49,152, 209 of one of 160,000."""


@dataclass(frozen=True)
class Loglikelihoods:
    """Natural-log probabilities of the targets of a window, in their order.

    After a comparison, `kl` has the Kullback-Leibler divergence of this model from the stored one at every target, in
    nats, and `same_top` whether both find the same token the most likely.
    """

    logprobs: Sequence[float]
    kl: Sequence[float] = ()
    same_top: Sequence[bool] = ()

    def to_json(self) -> Json:
        """Return what the operation answers: numbers as base64 of little-endian float32, `same_top` of bytes."""
        body = {"logprobs": _packed(self.logprobs)}
        if self.kl:
            body |= {"kl": _packed(self.kl), "same_top": base64.b64encode(bytes(self.same_top)).decode()}
        return body

    @staticmethod
    def from_json(body: Json) -> Loglikelihoods:
        same = tuple(map(bool, base64.b64decode(body.get("same_top", ""))))
        return Loglikelihoods(_unpacked(body["logprobs"]), _unpacked(body.get("kl", "")), same)


def _packed(numbers: Sequence[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()


def _unpacked(text: str) -> tuple[float, ...]:
    raw = base64.b64decode(text)
    return struct.unpack(f"<{len(raw) // 4}f", raw)


class Window:
    """Tokens of which those from number `first` on are targets: each is scored by the logits after the one before it.

    `scored` targets are done; a piece has logits for at most `max_rows` of them. `context` is the engine's,
    `vocabulary_size` the number of token ids, `logits` the length of a row of logits. Raises PromptTooLong or
    OptionError.
    """

    def __init__(self, tokens: Sequence[int], first: int, context: int, vocabulary_size: int, logits: int) -> None:
        if len(tokens) > context:
            raise PromptTooLong(len(tokens), context)
        if not 0 < first < len(tokens):
            last = len(tokens) - 1
            raise OptionError("first", first, {"en": f"a number from 1 to {last}", "zh": f"1 到 {last} 之间的数"})
        for token in tokens:
            check_token_id("tokens", token, vocabulary_size)
        self.tokens, self.first, self.scored = list(tokens), first, 0
        self.max_rows = max(MAX_LOGITS_BYTES // (4 * logits), 1)

    @property
    def targets(self) -> list[int]:
        return self.tokens[self.first :]

    @property
    def complete(self) -> bool:
        return self.first + self.scored == len(self.tokens)

    def next_piece(self, evaluated: int, chunk: int) -> tuple[list[int], int]:
        """Return at most `chunk` tokens to evaluate after the first `evaluated`, and how many of the last of them need
        logits.

        Tokens that were evaluated before and lost since are evaluated again, without logits for what is scored.
        """
        first_row = self.first - 1 + self.scored
        end = min(evaluated + chunk, len(self.tokens) - 1, max(evaluated, first_row) + self.max_rows)
        return self.tokens[evaluated:end], max(end - max(evaluated, first_row), 0)
