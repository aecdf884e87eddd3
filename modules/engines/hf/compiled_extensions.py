"""Find out whether compiled modules of other packages match the installed PyTorch, without which they fail to import.

Only importing them is certain, and that takes PyTorch. Without it, a module's file shows what it was built for: since
PyTorch 2.7 all of its official builds use the newer C++ ABI for strings, and a module for CUDA names its version.
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

_OLD_STRING_ABI = re.compile(rb"torchCheckFailEPKcS2_jRKSs")
"""A PyTorch function that every such module calls, by its mangled name in the older ABI."""
_CUDA = re.compile(rb"libcudart\.so\.(\d+)|cudart64_(\d+)\.dll")


def seems_usable(name: str) -> bool:
    """Whether the module is installed and, if it is compiled, matches PyTorch as far as its file shows."""
    spec = importlib.util.find_spec(name)
    if spec is None:
        return False
    compiled = spec.origin is not None and spec.origin.endswith(tuple(EXTENSION_SUFFIXES))
    return not compiled or matches_torch(Path(str(spec.origin)))


def matches_torch(file: Path) -> bool:
    if not file.stat().st_size:
        return False
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        cuda = _CUDA.search(content)
        cuda_version = (cuda[1] or cuda[2]).decode() if cuda else ""
        return _is_torch_built_for(cuda_version) and not (_torch_has_new_abi() and _OLD_STRING_ABI.search(content))


def keep_importable(environment: Environment, names: Iterable[str]) -> Environment:
    """Try to import the packages `names`, and keep only those of them that can be. It imports PyTorch with them."""
    tried = frozenset(names)
    return dataclasses.replace(environment, packages=environment.packages - tried | set(filter(_is_importable, tried)))


def _is_importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except (ImportError, OSError, RuntimeError, AttributeError):  # AttributeError: it uses what PyTorch has removed
        return False
    return True


def _is_torch_built_for(cuda_version: str) -> bool:
    """Whether PyTorch was built for that major version of CUDA; "" is always true."""
    kind, version = gpus.torch_build()
    return not cuda_version or (kind == "cuda" and version.partition(".")[0] == cuda_version)


def _torch_has_new_abi() -> bool:
    try:
        version = re.match(r"(\d+)\.(\d+)", importlib.metadata.version("torch"))
    except importlib.metadata.PackageNotFoundError:
        return False
    return version is not None and (int(version[1]), int(version[2])) >= (2, 7)
