"""Prompts for a gap in a text, for models that were trained to fill it in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class FimTokens:
    """The ids of the special tokens that mark the text before a gap (`prefix`), after it, and where the answer begins.

    `middle` is -1 for a model whose answer follows the text before the gap directly. `suffix_first` tells whether the
    model has the text after the gap first. `stops` are the texts of special tokens that end the answer beside the
    model's own end token, so they are both stop strings and visible texts of a `Prompt`.
    """

    prefix: int
    suffix: int
    middle: int = -1
    suffix_first: bool = False
    stops: tuple[str, ...] = ()

    def prompt(self, before: Sequence[int], after: Sequence[int], bos: Sequence[int] = ()) -> tuple[int, ...]:
        """Return the prompt between these texts, which are token ids without BOS; `bos` has the BOS token, if any.

        An engine's "encode" returns `bos` for an empty text.
        """
        parts = [(self.prefix, *before), (self.suffix, *after)]
        if self.suffix_first:
            parts.reverse()
        return (*bos, *parts[0], *parts[1], *((self.middle,) if self.middle >= 0 else ()))
