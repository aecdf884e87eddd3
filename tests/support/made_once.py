"""Keep files that are expensive to make, such as converted models, between runs: outside the repository, by version."""

from __future__ import annotations

import ast
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "webui-tests"


def version(scripts: Sequence[str | Path], *facts: object) -> str:
    """Return 12 hexadecimal digits that change with the code of `scripts` and with the `facts` that it depends on.

    Docstrings, comments, imports and layout do not count: rewording or moving a module makes nothing anew.
    """
    made_from = hashlib.sha256(repr(facts).encode())
    for script in scripts:
        made_from.update(ast.dump(_Code().visit(ast.parse(Path(script).read_bytes()))).encode())
    return made_from.hexdigest()[:12]


def made_once(path: Path, make: Callable[[Path], object]) -> Path:
    """Return `path`; if it does not exist, let `make` write it below a temporary folder, then rename it.

    Several processes may do so at once: the first to finish wins.
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
    """Remove imports and strings that stand alone, such as docstrings."""

    def visit_Import(self, node: ast.Import) -> None:
        return None

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        return None

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)
