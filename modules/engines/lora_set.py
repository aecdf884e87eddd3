"""Which LoRAs change a model: the order of work that is the same for every engine.

A new set is in force whole, with proof that each adapter of it does something, or the former set still is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import WebUIError
from modules.core.lora_errors import LoraRefused, LoraWithoutEffect

PROBE = "The secret of a good answer is that somebody asked:\n1. What is your name? 2. 你最喜欢什么颜色？"
"""Read by the model without and with an adapter. Of many kinds, for some adapters change little of some texts."""


class Refusal(Exception):
    """Why an engine does not take an adapter, in words that say it all."""


class Asked(TypedDict):
    """`path` is a folder of PEFT's or a GGUF adapter; `weight` multiplies what it changes, 1 as it was trained."""

    name: str
    path: str
    weight: float


class Adapters(Protocol):
    """What an engine does with adapters, whose handles only it understands. It may throw whatever its backend does."""

    def open(self, path: Path) -> Any:
        """Read an adapter, without a change to the model."""

    def close(self, handle: Any) -> None:
        """Let go of one that is not in force."""

    def put(self, wanted: Sequence[tuple[Any, float]]) -> None:
        """Let these, with their weights, and no others change the model. What was computed before is dropped."""

    def probe(self) -> NDArray[np.float32]:
        """The logits, shape (tokens, vocabulary), after the tokens of PROBE (as many as fit the context), read at once
        and into an empty cache."""


@dataclass(frozen=True)
class _Held:
    """An adapter that was read, from files as they were then."""

    name: str
    files: object
    handle: Any


class LoraSet:
    """The adapters in force. To be used while nothing is generated."""

    def __init__(self, adapters: Adapters) -> None:
        self._adapters = adapters
        self._in_force: list[tuple[_Held, float]] = []

    def apply(self, adapters: list[Asked]) -> list[float]:
        """Put these in place of those in force; with none, the model is as it was loaded.

        Returned is the effect of each, by itself: the largest change of a logit on the probe text, 0 for a weight of 0.
        LoraRefused, LoraWithoutEffect: then the former set is in force.
        """
        opened: dict[object, _Held] = {}
        known = {held.files: held for held, _ in self._in_force}
        with contextlib.ExitStack() as undoing:
            undoing.callback(self._close, opened.values())
            undoing.callback(self._put, list(self._in_force))
            wanted = [(self._open(each, known, opened), each["weight"]) for each in adapters]
            effects = self._effects(wanted) if wanted else []
            with _refusals(", ".join(held.name for held, _ in wanted)):  # each may do alone, and all be too much
                self._put(wanted)
            undoing.pop_all()
        self._in_force = wanted
        kept = {held.files for held, _ in wanted}
        self._close(held for files, held in (known | opened).items() if files not in kept)
        return effects

    def _open(self, asked: Asked, known: dict[object, _Held], opened: dict[object, _Held]) -> _Held:
        path = Path(asked["path"])
        with _refusals(asked["name"]):
            files = _files(path)
            held = known.get(files) or opened.get(files)
            if held is None:
                held = opened[files] = _Held(asked["name"], files, self._adapters.open(path))
        return held

    def _effects(self, wanted: Sequence[tuple[_Held, float]]) -> list[float]:
        """Of each alone. What two readings without any differ by is no effect."""
        self._put([])
        bare = self._adapters.probe()
        noise = _largest(self._adapters.probe() - bare)
        return [self._effect(held, weight, bare, noise) for held, weight in wanted]

    def _effect(self, held: _Held, weight: float, bare: NDArray[np.float32], noise: float) -> float:
        if not weight:
            return 0.0
        with _refusals(held.name):
            self._put([(held, weight)])
            effect = _largest(self._adapters.probe() - bare)
        if not np.isfinite(effect):
            raise LoraRefused(
                held.name, "logits are no longer finite with it: its numbers are too large, or are none (NaN)"
            )
        if not effect > noise:
            raise LoraWithoutEffect(held.name)
        return effect

    def _put(self, wanted: Sequence[tuple[_Held, float]]) -> None:
        self._adapters.put([(held.handle, weight) for held, weight in wanted if weight])

    def _close(self, unused: Any) -> None:
        for held in unused:
            self._adapters.close(held.handle)


def operation(adapters: Adapters) -> Callable[..., list[float]]:
    """The engine's operation "apply_loras", whose argument is that of `LoraSet.apply`."""
    return LoraSet(adapters).apply


def _files(path: Path) -> tuple[object, ...]:
    """Something else as soon as a file has changed: the same path is then another adapter."""
    names = ("adapter_config.json", "adapter_model.safetensors")
    facts = [each.stat() for each in ([path / name for name in names] if path.is_dir() else [path])]
    return (str(path), *((each.st_ino, each.st_size, each.st_mtime_ns) for each in facts))


def _largest(changes: NDArray[np.float32]) -> float:
    return float(np.abs(changes).max())


@contextlib.contextmanager
def _refusals(name: str) -> Any:
    """Whatever a backend has against an adapter is said with the adapter's name."""
    try:
        yield
    except WebUIError:
        raise
    except Refusal as refusal:
        raise LoraRefused(name, str(refusal)) from None
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, MemoryError, AttributeError) as error:
        raise LoraRefused(name, f"{type(error).__name__}: {error}") from error
