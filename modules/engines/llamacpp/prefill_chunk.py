"""How many prompt tokens a batch holds beside the tokens of answers."""

from __future__ import annotations

SECONDS = 0.025
"""Time of a step that others wait for: an answer goes on at 40 tokens a second, and a short one begins at once."""
MIN_TOKENS = 12
"""Fewer would be read much more slowly: a step reads all weights, however few tokens it has."""


class PrefillChunk:
    """As many tokens as are evaluated in SECONDS on this machine, at least MIN_TOKENS.

    On two slow cores those of the demo model take 5 ms each, and on a GPU a hundred of them take no longer than one.
    """

    def __init__(self) -> None:
        self.tokens = MIN_TOKENS

    def observe(self, tokens: int, seconds: float) -> None:
        """Take into account that a step with so many prompt tokens took so long.

        One slow step, such as beside another program, halves it at most.
        """
        if tokens < MIN_TOKENS:  # such a step takes as long as the tokens of the answers
            return
        fitting = int(tokens * SECONDS / seconds)
        self.tokens = max(MIN_TOKENS, min(max(fitting, self.tokens // 2), 2 * self.tokens))


class LongPromptTurns:
    """Lets long prompts sit out a step in which an answer can begin, never two steps in a row."""

    def __init__(self) -> None:
        self._sat_out = False

    def sit_out(self, answer_begins: bool) -> bool:
        """Return whether long prompts have no part in the next step, in which an answer may begin."""
        self._sat_out = answer_begins and not self._sat_out
        return self._sat_out
