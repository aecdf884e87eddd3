"""Run the generations of a `SerialEngine` one after the other."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import cast

from modules.core.errors import Unsupported
from modules.core.events import ENDS, Done, Event, Failed, Json, Progress, Text, Waiting
from modules.core.prompt import Image
from modules.engines import next_token
from modules.engines.engine_protocol import ImageReader, SerialEngine
from modules.engines.error_edge import as_error


class SerialAdapter:
    """Run a SerialEngine as a BatchingEngine: calls run one after the other, in the order in which they came."""

    def __init__(self, engine: SerialEngine) -> None:
        self.info = engine.info
        self.questions, self.operations = engine.questions, engine.operations
        self.tokenize, self._generate = engine.tokenize, engine.generate
        self._images = cast(ImageReader, engine)
        self._calls: OrderedDict[int, Generator[Text | Progress, None, Done]] = OrderedDict()
        self._to_announce: list[int] = []  # calls whose queue position has not been sent

    def read_images(self, images: Sequence[Image], text: str) -> Json:
        """Have the engine read pictures, if its `info` says that it does."""
        return self._images.read_images(images, text)

    def prepare_grammars(self) -> None:
        """Do nothing: a generation keeps all others waiting in any case."""

    def submit(self, call: int, prompt: list[int], params: Mapping[str, Json]) -> None:
        if next_token.candidate_count(params):
            raise Unsupported(next_token.NO_CANDIDATES)
        self._calls[call] = self._generate(prompt, params)
        if len(self._calls) > 1:
            self._to_announce.append(call)

    def cancel(self, call: int) -> None:
        if call in self._calls:
            self._calls.pop(call).close()

    @property
    def idle(self) -> bool:
        return not self._calls

    def interrupt(self, urgent: bool) -> None:
        """Do nothing: a step is one event of one generator."""

    def resume(self) -> None:
        """Do nothing: no step is ever interrupted."""

    def step(self) -> Iterator[tuple[int, Event]]:
        order = list(self._calls)
        for call in self._to_announce:
            if call in order[1:]:
                yield call, Waiting(order.index(call))
        self._to_announce.clear()
        call, generator = next(iter(self._calls.items()))
        event = _advance(generator)
        if isinstance(event, ENDS):
            del self._calls[call]
        yield call, event


def _advance(generator: Generator[Text | Progress, None, Done]) -> Event:
    try:
        return next(generator)
    except StopIteration as end:
        done: Done = end.value
        return done
    except Exception as error:  # part of the worker's error edge: one call fails, the others continue
        return Failed(as_error(error))
