"""Import Gradio without the slow half of its import, which only serves Gradio's own developers.

gradio 6.31.0 renders a .pyi stub for each of its 81 components at every import (`component_meta.create_or_modify_pyi`):
1.3 of 2.6 seconds, for files that the wheel already contains. The function does nothing while Gradio is imported and is
restored afterwards. `tests/ui/test_gradio_import.py` fails when there is nothing left to save.

It imports pandas, which takes 34 MB and which only tables, plots and its page of statistics use: here, it is imported
when something in it is used for the first time.

Gradio also inspects the constructor of a component at each call (`component_meta.updateable`), which takes a fifth of
the time in which the page is built; from here on, it does so once.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

_STUB_WRITER = "create_or_modify_pyi"
_POSTPONED = "pandas"


def gradio() -> Any:
    """Return the gradio package, imported at the first call with its analytics switched off: it sends nothing."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if "gradio" in sys.modules:
        return sys.modules["gradio"]
    return _without_stubs()


def _without_stubs() -> Any:
    # `gradio.component_meta` cannot be patched beforehand: importing it imports its package, the slow part, first.
    patcher, postponer = _Patcher(), _Postponer()
    sys.meta_path[:0] = [patcher, postponer]
    try:
        package = importlib.import_module("gradio")
    finally:
        sys.meta_path.remove(patcher)
        sys.meta_path.remove(postponer)
        patcher.restore()
    inspected_once = SimpleNamespace(getfile=inspect.getfile, getfullargspec=cache(inspect.getfullargspec))
    vars(sys.modules["gradio.component_meta"])["inspect"] = inspected_once
    return package


def _found_without(finder: MetaPathFinder, name: str) -> ModuleSpec | None:
    """Return where the other finders find a module."""
    sys.meta_path.remove(finder)
    try:
        return importlib.util.find_spec(name)
    finally:
        sys.meta_path.insert(0, finder)


class _Postponer(MetaPathFinder):
    """An import hook that executes pandas only when one of its attributes is read."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != _POSTPONED:
            return None
        spec = _found_without(self, name)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


class _Patcher(MetaPathFinder):
    """An import hook that replaces `create_or_modify_pyi` by nothing once its module has been executed."""

    def __init__(self) -> None:
        self._original: object = None

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "gradio.component_meta":
            return None
        spec = _found_without(self, name)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self._original = getattr(module, _STUB_WRITER, None)
            if self._original is not None:
                vars(module)[_STUB_WRITER] = _do_nothing

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def restore(self) -> None:
        module = sys.modules.get("gradio.component_meta")
        if module is not None and self._original is not None:
            vars(module)[_STUB_WRITER] = self._original


def _do_nothing(*_: object) -> None:
    pass
