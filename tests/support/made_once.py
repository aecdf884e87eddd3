"""A cache, outside the repository, for files that are expensive to create, such as converted models."""

from __future__ import annotations

import ast
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "webui-tests"


def version(scripts: Sequence[str | Path], *facts: object) -> str:
    """Return a hash of 12 hexadecimal digits over the code of `scripts` and the `facts` that the result depends on.

    Docstrings, comments, imports and formatting do not count, so that changing them does not invalidate the cache.
    """
    digest = hashlib.sha256(repr(facts).encode())
    for script in scripts:
        digest.update(ast.dump(_Code().visit(ast.parse(Path(script).read_bytes()))).encode())
    return digest.hexdigest()[:12]


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """Return `path`; if it does not exist, let `make` create it in a temporary folder, then move it to `path`.

    Several processes may do so concurrently; the first to finish wins.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            part = Path(folder) / path.name
            make(part)
            try:
                part.rename(path)
            except OSError:  # another process was faster
                assert path.exists()
    return path


class _Code(ast.NodeTransformer):
    """Remove imports and string statements such as docstrings."""

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_string = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_string else self.generic_visit(node)
