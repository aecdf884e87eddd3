"""Imports Gradio without the half of its import time that serves its own developers.

gradio 6.31.0 renders a .pyi stub for each of its 81 components at every import (`component_meta.create_or_modify_pyi`):
1.3 of 2.6 seconds, for files that the wheel already contains. The hook is empty while Gradio is imported and back in
place afterwards. `tests/ui/test_ui.py` tells when there is nothing left to gain.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

HOOK = "create_or_modify_pyi"


def gradio() -> Any:
    """The gradio package, imported at the first call. It phones nobody: analytics are switched off before."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    if "gradio" in sys.modules:
        return sys.modules["gradio"]
    return _without_stubs()


def _without_stubs() -> Any:
    # `gradio.component_meta` cannot be imported before its package, whose import is the slow part; so the import of
    # the one module that defines components' metaclass is watched for.
    watcher = _Watcher()
    sys.meta_path.insert(0, watcher)
    try:
        return importlib.import_module("gradio")
    finally:
        sys.meta_path.remove(watcher)
        watcher.restore()


class _Watcher(MetaPathFinder):
    """An import hook that empties `create_or_modify_pyi` as soon as its module has been executed."""

    def __init__(self) -> None:
        self._original: object = None

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != "gradio.component_meta":
            return None
        sys.meta_path.remove(self)  # let the others find it
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            self._original = getattr(module, HOOK, None)
            if self._original is not None:
                vars(module)[HOOK] = _nothing

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def restore(self) -> None:
        module = sys.modules.get("gradio.component_meta")
        if module is not None and self._original is not None:
            vars(module)[HOOK] = self._original


def _nothing(*_: object) -> None:
    pass
