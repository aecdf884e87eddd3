"""Complete a CUDA toolkit that has little more than nvcc with the headers and libraries of PyTorch's packages."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

TOOLKIT = Path(os.environ.get("CUDA_HOME") or "/usr/local/cuda")
_HEADER, _STUB = "cublas_v2.h", "libcuda.so"


def nvidia_packages() -> list[Path]:
    """Return the folders of NVIDIA's Python packages that have headers or libraries."""
    spec = importlib.util.find_spec("nvidia")
    roots = [Path(path) for path in (spec.submodule_search_locations or ())] if spec else []
    return sorted(folder for root in roots for folder in root.iterdir() if (folder / "lib").is_dir())


def complete(toolkit: Path, packages: Sequence[Path], work: Path) -> dict[str, str]:
    """Return variables by which compilers, CMake and the loader of libraries find what `toolkit` lacks; {} if nothing.

    Packages have libraries such as libcublas.so.13 alone; `work` gets links without the number, which linkers look for.
    """
    if _found(toolkit, _HEADER):
        return {}
    links = work / "cuda" / "lib"
    links.mkdir(parents=True, exist_ok=True)
    for library in (file for folder in packages for file in (folder / "lib").glob("lib*.so.*")):
        link = links / f"{library.name.partition('.so.')[0]}.so"
        if not link.exists():
            link.symlink_to(library)
    include = _joined(folder / "include" for folder in packages if (folder / "include").is_dir())
    libraries = _joined([links, *(folder / "lib" for folder in packages)])
    return {
        **dict.fromkeys(("CPATH", "CMAKE_INCLUDE_PATH"), include),
        **dict.fromkeys(("LIBRARY_PATH", "CMAKE_LIBRARY_PATH", "LD_LIBRARY_PATH"), libraries),
    }


def definitions(toolkit: Path, capability: str) -> str:
    """Return CMake's definitions for llama.cpp: this card alone, and no driver library where there is none to link."""
    stub = "" if _found(toolkit, _STUB) else " -DGGML_CUDA_NO_VMM=on"
    return f"-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES={capability.replace('.', '')}{stub}"


def prepended(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with this process's values of them at the end."""
    return {name: _joined(filter(None, (value, os.environ.get(name)))) for name, value in variables.items()}


def _joined(paths: Iterable[object]) -> str:
    return os.pathsep.join(map(str, paths))


def _found(toolkit: Path, name: str) -> bool:
    folders = ("include", "targets/x86_64-linux/include", "lib64/stubs", "targets/x86_64-linux/lib/stubs")
    return any((toolkit / folder / name).exists() for folder in folders)
