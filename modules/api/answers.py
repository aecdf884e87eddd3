"""Answers under way, and the format of an endpoint in which they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableSet, Sequence
from dataclasses import dataclass
from typing import Protocol

from modules.api.generations import GenerationCall, Generations
from modules.api.model_use import ModelUse, undone_on_error
from modules.core.events import Done, Json, Text


class AnswerFormat(Protocol):
    """Write the answers to one request in the format of its endpoint. Methods called `sse_…` return whole events."""

    @property
    def headers(self) -> Mapping[str, str]:
        """Return the headers of the response that the format adds."""

    def whole(self, answers: Sequence[Sequence[Text]], ends: Mapping[int, Done]) -> Json:
        """Return the body with all answers."""

    def sse_opening(self, number: int) -> bytes:
        """Return the events that begin answer `number`, "" for none."""

    def sse_text(self, number: int, piece: Text) -> bytes:
        """Return the events of the next piece of an answer."""

    def sse_end(self, number: int, end: Done, last: bool = False) -> bytes:
        """Return the events that end answer `number`; `last` if no other answer is still to end."""

    def sse_closing(self, ends: Mapping[int, Done]) -> bytes:
        """Return the events that end the stream, once all answers have ended."""


@dataclass(frozen=True)
class Answers:
    """Answers under way, each of which has begun. `release` ends the use of their model."""

    generations: Generations
    builder: AnswerFormat
    count: int
    headers: Mapping[str, str]
    release: Callable[[], None]

    def close(self) -> None:
        """Stop those that are still running, and release their model."""
        self.generations.close()
        self.release()


async def begin(
    use: ModelUse,
    calls: Sequence[GenerationCall],
    builder: AnswerFormat,
    owner: object,
    running: MutableSet[Generations],
) -> Answers:
    """Start the generations of one request, and wait until each has begun, so that a refusal is raised here.

    `owner` says who asked for them. The model is released when they end.
    """
    with use.released_on_error():
        generations = Generations(use.model, calls, owner)
    answers = Answers(generations, builder, len(calls), {**use.headers, **builder.headers}, use.release)
    with undone_on_error(answers.close):
        running.add(generations)
        await generations.wait_for_first_events()
    return answers
