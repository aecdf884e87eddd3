"""Compile llama.cpp's RPC backend, as a library that any installed build of the same version loads.

It takes three seconds of one core: two files, from the source of the llama-cpp-python that is installed. As a part of
llama.cpp's own build it would have every existing installation compile for three minutes, and a build for CUDA that a
user has installed would not have it.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import subprocess
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.engines.llamacpp.arguments import RPC_LIBRARY
from modules.setup.llama_cpp_build import NoCompiler, Phase
from modules.setup.pip import POLL_SECONDS, Pip, PipFailed, Stopped
from modules.system.child_process import supervised

Report = Callable[[Phase, int], None]
"""Receives the phase and the number of steps that are done."""

STEPS = 3
_SOURCES = ("ggml-rpc.cpp", "transport.cpp")
_FLAGS = ("-O2", "-std=c++17", "-fPIC", "-DNDEBUG")
_DEFINITIONS = ("-DGGML_BACKEND_DL", "-DGGML_BACKEND_SHARED", "-DGGML_BACKEND_BUILD", "-D_GNU_SOURCE")
_LIBRARIES = ("libggml-base.so.0", "libggml-base.so", "libggml-base.0.dylib", "libggml-base.dylib")


@dataclass(frozen=True)
class RpcBuild:
    """A build of the RPC backend in the folder `work`, which the caller deletes. `stop` ends it.

    `pin` is the requirement whose source is compiled, `overlay` the folder in which it may be installed.
    """

    pin: str
    overlay: Path
    work: Path
    pip: Pip
    stop: threading.Event
    report: Report

    def build(self, target: Path) -> None:
        """Compile the library into the folder `target`. Raises NoCompiler, PipFailed, Stopped or OSError."""
        compiler = _compiler()
        base = self._installed_base()
        self.report("fetching", 0)
        folder = self._unpacked(self._downloaded())
        includes = [f"-I{folder / name}" for name in ("include", "src")]
        objects = []
        for number, name in enumerate(_SOURCES):
            self.report("compiling", number)
            objects.append(self.work / f"{name}.o")
            source = folder / "src" / "ggml-rpc" / name
            self._run([*compiler, *_FLAGS, *_DEFINITIONS, *includes, "-c", str(source), "-o", str(objects[-1])])
        self.report("compiling", len(_SOURCES))
        target.mkdir()
        output = ["-shared", "-o", str(target / RPC_LIBRARY.name)]
        self._run([*compiler, *output, *map(str, objects), str(base), f"-Wl,-rpath,{base.parent}"])

    def _installed_base(self) -> Path:
        """Return the library of llama.cpp that the backend is linked with. Raises FileNotFoundError."""
        folders = [self.overlay / "llama_cpp"]
        if (spec := importlib.util.find_spec("llama_cpp")) is not None and spec.submodule_search_locations:
            folders += map(Path, spec.submodule_search_locations)
        files = [folder / "lib" / name for folder in folders for name in _LIBRARIES]
        base = next((file for file in files if file.is_file()), None)
        if base is None:
            raise FileNotFoundError("llama.cpp is not installed")
        return base

    def _downloaded(self) -> Path:
        fetched, name = self.work / "fetched", self.pin.partition("==")[0]
        arguments = ("--no-deps", "--no-binary", name, "--dest", str(fetched), "--progress-bar", "off")
        self.pip.run("download", *arguments, self.pin)
        return next(fetched.glob("*.tar.gz"))

    def _unpacked(self, archive: Path) -> Path:
        """Unpack what is needed of the source, and return the folder of ggml in it."""
        folder = self.work / "source"
        with tarfile.open(archive) as tar:
            members = list(_needed(tar))
            if hasattr(tarfile, "data_filter"):
                tar.extractall(folder, members, filter="data")
            else:  # a Python before 3.10.12 or 3.11.4
                tar.extractall(folder, members)
        return next(folder.glob("*/vendor/llama.cpp/ggml"))

    def _run(self, command: Sequence[str]) -> None:
        with tempfile.TemporaryFile("w+", dir=self.work, encoding="utf-8", errors="replace") as output:
            child = subprocess.Popen(
                supervised(command),
                stdin=subprocess.PIPE,  # for the supervisor: whatever ends this process closes it
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            with child:
                while child.poll() is None and not self.stop.wait(POLL_SECONDS):
                    pass
            if self.stop.is_set():
                raise Stopped
            if child.returncode:
                output.seek(0)
                raise PipFailed(output.read())


def _needed(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for member in tar:
        _, _, path = member.name.partition("/vendor/llama.cpp/ggml/")
        is_header = path.endswith(".h") and path.count("/") == 1
        if member.isfile() and (is_header or path.startswith("src/ggml-rpc/")):
            yield member


def _compiler() -> list[str]:
    """Return the command of a compiler that takes the flags of GCC. Raises NoCompiler."""
    for command in (os.environ.get("CXX", ""), "c++", "g++", "clang++"):
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return words
    raise NoCompiler
