"""Whether the compiled modules of other packages fit the installed PyTorch: one built for another cannot be imported.

Only importing tells for certain, and that takes PyTorch. Without it the file tells what it was built for: since 2.7 all
of PyTorch's own packages keep C++'s strings in the newer manner, and a module for CUDA names that one's version.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import mmap
import re
from collections.abc import Iterable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from modules.engines.hf.arguments import Environment
from modules.system import gpus

_OLD_STRINGS = re.compile(rb"torchCheckFailEPKcS2_jRKSs")
"""A function of PyTorch's that every such module calls, by the name that it had with strings of the older manner."""
_CUDA = re.compile(rb"libcudart\.so\.(\d+)|cudart64_(\d+)\.dll")


def likely(name: str) -> bool:
    """Whether `name` is installed and, if it is a compiled module, fits PyTorch as far as its file tells."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return False
    compiled = spec.origin is not None and spec.origin.endswith(tuple(EXTENSION_SUFFIXES))
    return not compiled or fits(Path(str(spec.origin)))


def fits(file: Path) -> bool:
    if not file.stat().st_size:
        return False
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as held:
        cuda = _CUDA.search(held)
        wanted = (cuda[1] or cuda[2]).decode() if cuda else ""
        return _is_cuda(wanted) and not (_has_new_strings() and _OLD_STRINGS.search(held))


def tried(environment: Environment, names: Iterable[str]) -> Environment:
    """`machine` with those of `names` alone that can be imported; for where PyTorch is imported anyway."""
    asked = frozenset(names)
    return dataclasses.replace(environment, packages=environment.packages - asked | set(filter(_imports, asked)))


def _imports(name: str) -> bool:
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError):  # the latter where a package builds on what is gone
        return False
    return True


def _is_cuda(version: str) -> bool:
    """Whether PyTorch was built for that one, "12" or "" for none in particular."""
    kind, of = gpus.torch_build()
    return not version or (kind == "cuda" and of.partition(".")[0] == version)


def _has_new_strings() -> bool:
    try:
        found = re.match(r"(\d+)\.(\d+)", importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        return False
    return found is not None and (int(found[1]), int(found[2])) >= (2, 7)
