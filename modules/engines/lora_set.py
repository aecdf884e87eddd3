"""The LoRA adapters applied to a model: the procedure that all engines share.

A new set replaces the former one as a whole, after a check that every adapter of it has an effect.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import WebUIError
from modules.core.lora_errors import LoraRefused, LoraWithoutEffect

PROBE = "The secret of a good answer is that somebody asked:\n1. What is your name? 2. 你最喜欢什么颜色？"
"""Text that the model evaluates without and with an adapter. It is mixed, as some adapters change few kinds of text."""


class AdapterRefused(Exception):
    """An engine does not accept an adapter. The message is shown as it is."""


class AdapterRequest(TypedDict):
    """An adapter to apply. `path` is a PEFT folder or a GGUF file; a `weight` of 1 applies it as trained."""

    name: str
    path: str
    weight: float


class AdapterBackend(Protocol):
    """What an engine does with adapters. Handles are opaque to `LoraSet`; any exception of the backend may pass."""

    def open(self, path: Path) -> Any:
        """Read an adapter without changing the model; return a handle."""

    def close(self, handle: Any) -> None:
        """Release an adapter that is not active."""

    def activate(self, adapters: Sequence[tuple[Any, float]]) -> None:
        """Apply these handles, with their weights, and no others. Caches computed before are dropped."""

    def probe(self) -> NDArray[np.float32]:
        """Return the logits [tokens, vocabulary] of PROBE, of as many tokens as fit the context.

        They are evaluated in one pass into an empty cache.
        """


@dataclass(frozen=True)
class _OpenAdapter:
    name: str
    version: object  # of its files when they were read
    handle: Any


class LoraSet:
    """The adapters applied to a model. To be used while nothing is generated."""

    def __init__(self, backend: AdapterBackend) -> None:
        self._backend = backend
        self._active: list[tuple[_OpenAdapter, float]] = []

    def apply(self, adapters: list[AdapterRequest]) -> list[float]:
        """Replace the active adapters; an empty list restores the model as it was loaded.

        Return the effect of every adapter by itself: the largest change of a logit on PROBE, 0 for a weight of 0.
        Raises LoraRefused or LoraWithoutEffect, after which the former set is active.
        """
        opened: dict[object, _OpenAdapter] = {}
        reusable = {adapter.version: adapter for adapter, _ in self._active}
        with contextlib.ExitStack() as undo:
            undo.callback(self._close, opened.values())
            undo.callback(self._activate, list(self._active))
            requested = [(self._open(request, reusable, opened), request["weight"]) for request in adapters]
            effects = self._effects(requested) if requested else []
            # Adapters that fit one by one may take too much memory together.
            with _translate_errors(", ".join(adapter.name for adapter, _ in requested)):
                self._activate(requested)
            undo.pop_all()
        self._active = requested
        kept = {adapter.version for adapter, _ in requested}
        self._close(adapter for version, adapter in (reusable | opened).items() if version not in kept)
        return effects

    def _open(
        self, request: AdapterRequest, reusable: dict[object, _OpenAdapter], opened: dict[object, _OpenAdapter]
    ) -> _OpenAdapter:
        path = Path(request["path"])
        with _translate_errors(request["name"]):
            version = file_version(path)
            adapter = reusable.get(version) or opened.get(version)
            if adapter is None:
                adapter = opened[version] = _OpenAdapter(request["name"], version, self._backend.open(path))
        return adapter

    def _effects(self, requested: Sequence[tuple[_OpenAdapter, float]]) -> list[float]:
        """Measure every adapter alone. Two probes without any differ by noise, which is no effect."""
        self._activate([])
        base = self._backend.probe()
        noise = _largest(self._backend.probe() - base)
        return [self._effect(adapter, weight, base, noise) for adapter, weight in requested]

    def _effect(self, adapter: _OpenAdapter, weight: float, base: NDArray[np.float32], noise: float) -> float:
        if not weight:
            return 0.0
        with _translate_errors(adapter.name):
            self._activate([(adapter, weight)])
            effect = _largest(self._backend.probe() - base)
        if not np.isfinite(effect):
            raise LoraRefused(
                adapter.name, "logits are no longer finite with it: its values are too large, infinite or NaN"
            )
        if not effect > noise:
            raise LoraWithoutEffect(adapter.name)
        return effect

    def _activate(self, adapters: Sequence[tuple[_OpenAdapter, float]]) -> None:
        self._backend.activate([(adapter.handle, weight) for adapter, weight in adapters if weight])

    def _close(self, unused: Iterable[_OpenAdapter]) -> None:
        for adapter in unused:
            self._backend.close(adapter.handle)


def file_version(path: Path) -> tuple[object, ...]:
    """Return a key that changes with the adapter's files: a path whose file was rewritten is another adapter."""
    names = ("adapter_config.json", "adapter_model.safetensors")
    stats = [file.stat() for file in ([path / name for name in names] if path.is_dir() else [path])]
    return (str(path), *((stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats))


def _largest(changes: NDArray[np.float32]) -> float:
    return float(np.abs(changes).max())


@contextlib.contextmanager
def _translate_errors(name: str) -> Iterator[None]:
    """Turn whatever a backend raises into LoraRefused with the adapter's `name`."""
    try:
        yield
    except WebUIError:
        raise
    except AdapterRefused as refusal:
        raise LoraRefused(name, str(refusal)) from None
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, MemoryError, AttributeError) as error:
        raise LoraRefused(name, f"{type(error).__name__}: {error}") from error
