"""Get a wheel of llama-cpp-python: a ready one where there is one, else compiled here by a build that can be resumed.

The build is not left to `pip install`, for two reasons. pip unpacks a source distribution into a new temporary folder
each time, so that nothing of an interrupted build could be used again. And the wheel, which lacks what this program
does not use, would go into pip's cache, from where other programs of the user would get it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from modules.core.paths import ROOT
from modules.setup.build_progress import BuildSteps
from modules.setup.install_errors import NO_VERSION, OUT_OF_MEMORY, explain
from modules.setup.pip import Pip, PipFailed

Phase = Literal["fetching", "compiling"]
Report = Callable[[Phase, BuildSteps | None, str], None]

ONLY_LLAMA = ROOT / "scripts" / "llama-only.cmake"
NICENESS = 10
_STORE = "text-studio-wheels"
_DEFINITIONS = ("LLAVA_BUILD=OFF",)
_SETTINGS = ("CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "CUDACXX", "CUDAARCHS", "CUDAHOSTCXX", "HIPCXX")
_PREFIXES = ("CMAKE_", "SKBUILD_", "GGML_", "LLAMA_")
_WITHOUT_EFFECT = ("CMAKE_BUILD_PARALLEL_LEVEL",)


class NoCompiler(Exception):
    """The index has no wheel for this machine, and there is no compiler to make one."""


@dataclass(frozen=True)
class LlamaBuild:
    """`pin` is "llama-cpp-python==<version>". `folder` keeps the source and all that is compiled until `clean`."""

    pin: str
    folder: Path
    pip: Pip
    report: Report

    def wheel(self) -> Path:
        """Return a wheel to install. NoCompiler, PipFailed, Stopped or OSError."""
        self._discard_other_recipe()
        ready = self._stored() or self._cached_by_pip()
        if ready is not None:
            return ready
        source = self.folder / "source"
        if not source.is_dir():
            ready = self._fetch(source)
        return ready or self._compile(source)

    def clean(self) -> None:
        """Remove what an interrupted build would need."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _one_at_a_time(self) -> Path:
        """A file that is there once several compilers at a time have taken too much memory."""
        return self.folder / "one-at-a-time"

    def _discard_other_recipe(self) -> None:
        """Begin anew if the kept build was made for other settings."""
        recipe, note = self._recipe(), self.folder / "recipe"
        with contextlib.suppress(OSError):
            if note.read_text(encoding="utf-8") == recipe:
                return
        self.clean()
        self.folder.mkdir(parents=True)
        note.write_text(recipe, encoding="utf-8")

    def _recipe(self) -> str:
        """All that makes a difference to the compiled code, as a hash."""
        settings = {
            name: value
            for name, value in os.environ.items()
            if (name in _SETTINGS or name.startswith(_PREFIXES)) and name not in _WITHOUT_EFFECT
        }
        machine = [platform.system(), platform.machine(), _processor()]
        facts = [self.pin, _DEFINITIONS, ONLY_LLAMA.read_text(encoding="utf-8"), settings, machine]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]

    # -- ready wheels -----------------------------------------------------------------------------------------------

    @cached_property
    def _store(self) -> Path | None:
        """The folder for wheels made here, beside pip's own cache: whoever keeps that one keeps this, too."""
        try:
            said = self.pip.run("cache", "dir")
        except PipFailed:  # the user has switched the cache off
            return None
        folders = [Path(line.strip()) for line in said if os.path.isabs(line.strip())]
        return folders[-1] / _STORE / self._recipe() if folders else None

    def _stored(self) -> Path | None:
        store = self._store
        return next(store.glob("*.whl"), None) if store is not None else None

    def _cached_by_pip(self) -> Path | None:
        """A wheel that an earlier `pip install` compiled. Not with CMAKE_ARGS: pip does not note what made a wheel."""
        if os.environ.get("CMAKE_ARGS"):
            return None
        name, _, version = self.pin.partition("==")
        stem = f"{name.replace('-', '_')}-{version}-"
        try:
            said = self.pip.run("cache", "list", "--format", "abspath", stem.rstrip("-"))
        except PipFailed:
            return None
        found = [Path(line.strip()) for line in said if line.strip().endswith(".whl")]
        return next((path for path in found if path.name.startswith(stem) and path.is_file()), None)

    def _keep(self, wheel: Path) -> None:
        """Put a wheel made here into the store; that it cannot be kept is no failure."""
        store = self._store
        if store is None:
            return
        with contextlib.suppress(OSError):
            store.mkdir(parents=True, exist_ok=True)
            part = store / f".{os.getpid()}.part"
            shutil.copyfile(wheel, part)
            part.replace(store / wheel.name)

    # -- source -----------------------------------------------------------------------------------------------------

    def _fetch(self, source: Path) -> Path | None:
        """Download a wheel, which is returned, or a source distribution, which is unpacked into `source`."""
        self.report("fetching", None, self.pin)
        fetched = self.folder / "fetched"
        shutil.rmtree(fetched, ignore_errors=True)
        download = ["download", "--no-deps", "--dest", str(fetched), "--progress-bar", "off", self.pin]
        if has_compiler():
            self.pip.run(*download, read=self._read_fetching)
        else:
            try:
                self.pip.run(*download, "--only-binary", ":all:", "--retries", "1", read=self._read_fetching)
            except PipFailed as failure:
                if explain(failure.output) is NO_VERSION:
                    raise NoCompiler from failure
                raise
        wheel = next(fetched.glob("*.whl"), None)
        if wheel is None:
            _unpack(next(fetched.glob("*.tar.gz")), source)
        return wheel

    def _read_fetching(self, line: str) -> None:
        self.report("fetching", None, line.strip())

    def _compile(self, source: Path) -> Path:
        if not has_compiler():
            raise NoCompiler
        built = self.folder / "built"
        shutil.rmtree(built, ignore_errors=True)  # an unfinished copy of a wheel may lie there
        steps = BuildSteps(self.folder / "steps")
        self.report("compiling", steps, "")

        def read(line: str) -> None:
            steps.read(line)
            self.report("compiling", steps, line.strip())

        wheel_into = ("wheel", "--verbose", "--no-deps", "--progress-bar", "off", "--wheel-dir", str(built))
        try:
            self.pip.run(*wheel_into, str(source), read=read, environment=self._environment(), niceness=NICENESS)
        except PipFailed as failure:
            if explain(failure.output) is OUT_OF_MEMORY:
                self._one_at_a_time.touch()
            raise
        wheel = next(built.glob("*.whl"))
        self._keep(wheel)
        return wheel

    def _environment(self) -> dict[str, str]:
        """What scikit-build-core reads. The user's CMAKE_ARGS come after these definitions, and so override them."""
        ours = [*_DEFINITIONS, f"CMAKE_PROJECT_llama_cpp_INCLUDE={ONLY_LLAMA}"]
        theirs = os.environ.get("SKBUILD_CMAKE_DEFINE", "")
        serially = {"CMAKE_BUILD_PARALLEL_LEVEL": "1"} if self._one_at_a_time.exists() else {}
        return {
            **serially,
            "SKBUILD_BUILD_DIR": str(self.folder / "build"),
            "SKBUILD_CMAKE_DEFINE": ";".join([*ours, theirs] if theirs else ours),
        }


def has_compiler() -> bool:
    """Whether a C++ compiler is there. CXX may hold arguments as well, as in "ccache g++"."""
    candidates = ((os.environ.get("CXX") or "c++").split()[0], "g++", "clang++", *(("cl",) if os.name == "nt" else ()))
    return any(shutil.which(each) for each in candidates)


def _unpack(archive: Path, target: Path) -> None:
    """Unpack the one folder that `archive` holds, whole or not at all."""
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=target.parent) as temporary, tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(temporary, filter="data")
        else:  # a Python before 3.10.12 or 3.11.4
            tar.extractall(temporary)
        (folder,) = Path(temporary).iterdir()
        folder.rename(target)
    archive.unlink()


def _processor() -> str:
    """What the compiler's -march=native goes by."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                return line
    return platform.processor()
