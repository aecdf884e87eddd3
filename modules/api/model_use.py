"""Choose the model that answers a request, and hold it until the answer has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import TracebackType

from starlette.requests import Request

from modules.app import App
from modules.runtime.loaded_model import LoadedModel


def _do_nothing() -> None:
    """Release nothing."""


@dataclass(frozen=True)
class ModelUse:
    """A model that stays loaded until `release`, which may be called again. `headers` are for the answer."""

    model: LoadedModel
    headers: Mapping[str, str] = field(default_factory=dict)
    release: Callable[[], None] = _do_nothing

    def __enter__(self) -> LoadedModel:
        return self.model

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    @contextmanager
    def released_on_error(self) -> Iterator[None]:
        """Release the model if the block raises; otherwise its user goes on."""
        try:
            yield
        except BaseException:
            self.release()
            raise


async def use_model(app: App, request: Request, name: str = "", keep_alive: float | None = None) -> ModelUse:
    """Return the model that answers a request for `name`. Raises what `ModelManager.current` raises."""
    return ModelUse(app.models.current)
