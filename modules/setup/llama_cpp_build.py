"""Provide a wheel of llama-cpp-python: a prebuilt one if available, else one compiled by a resumable build.

`pip install` does not do the build, for two reasons. pip unpacks a source distribution into a new temporary folder
every time, so an interrupted build could not be resumed. And the wheel, which lacks the parts this application does not
use, would go into pip's cache, from which other applications of the user would install it.
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
from modules.setup.build_progress import BuildProgress
from modules.setup.install_errors import NO_VERSION, OUT_OF_MEMORY, explain
from modules.setup.pip import Pip, PipFailed
from modules.system import cpu_memory

Phase = Literal["fetching", "compiling"]
Report = Callable[[Phase, BuildProgress | None, str], None]
"""Receives the phase, the progress of the compilation if it is running, and the last line of output."""

ONLY_LLAMA = ROOT / "scripts" / "llama-only.cmake"
NICENESS = 10
_WHEEL_STORE = "text-studio-wheels"
_DEFINITIONS = ("LLAVA_BUILD=ON", "MTMD_VIDEO=OFF")
_BUILD_VARIABLES = (
    "CC",
    "CXX",
    "CFLAGS",
    "CXXFLAGS",
    "CPPFLAGS",
    "LDFLAGS",
    "CUDACXX",
    "CUDAARCHS",
    "CUDAHOSTCXX",
    "HIPCXX",
)
_BUILD_VARIABLE_PREFIXES = ("CMAKE_", "SKBUILD_", "GGML_", "LLAMA_")
_IRRELEVANT_VARIABLES = ("CMAKE_BUILD_PARALLEL_LEVEL",)


class NoCompiler(Exception):
    """The package index has no wheel for this machine, and there is no C++ compiler to build one."""


@dataclass(frozen=True)
class LlamaBuild:
    """Build of the requirement `pin`, "llama-cpp-python==<version>".

    `folder` keeps the source and the compiled files until `clean` is called.
    """

    pin: str
    folder: Path
    pip: Pip
    report: Report

    def wheel(self) -> Path:
        """Return the path of a wheel to install. Raises NoCompiler, PipFailed, Stopped or OSError."""
        self._discard_outdated_build()
        wheel = self._stored_wheel() or self._wheel_in_pip_cache()
        if wheel is not None:
            return wheel
        source = self.folder / "source"
        if not source.is_dir():
            wheel = self._download(source)
        return wheel or self._compile(source)

    def clean(self) -> None:
        """Remove the source and the compiled files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _serial_marker(self) -> Path:
        """File that exists after parallel compilation has run out of memory."""
        return self.folder / "one-at-a-time"

    def _discard_outdated_build(self) -> None:
        """Start over if the files in `folder` were compiled with other settings."""
        settings_hash, hash_file = self._settings_hash(), self.folder / "recipe"
        with contextlib.suppress(OSError):
            if hash_file.read_text(encoding="utf-8") == settings_hash:
                return
        self.clean()
        self.folder.mkdir(parents=True)
        hash_file.write_text(settings_hash, encoding="utf-8")

    def _settings_hash(self) -> str:
        """Hash everything that affects the compiled code: version, definitions, environment variables, machine."""
        settings = {
            name: value
            for name, value in os.environ.items()
            if (name in _BUILD_VARIABLES or name.startswith(_BUILD_VARIABLE_PREFIXES))
            and name not in _IRRELEVANT_VARIABLES
        }
        machine = [platform.system(), platform.machine(), cpu_memory.features()]
        facts = [self.pin, _DEFINITIONS, ONLY_LLAMA.read_text(encoding="utf-8"), settings, machine]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:20]

    # -- prebuilt wheels --------------------------------------------------------------------------------------------

    @cached_property
    def _store(self) -> Path | None:
        """Folder for wheels built by this application, next to pip's cache so that both are kept together."""
        try:
            lines = self.pip.run("cache", "dir")
        except PipFailed:  # the cache is disabled
            return None
        folders = [Path(line.strip()) for line in lines if os.path.isabs(line.strip())]
        return folders[-1] / _WHEEL_STORE / self._settings_hash() if folders else None

    def _stored_wheel(self) -> Path | None:
        store = self._store
        return next(store.glob("*.whl"), None) if store is not None else None

    def _wheel_in_pip_cache(self) -> Path | None:
        """Return a wheel that an earlier `pip install` compiled.

        None if CMAKE_ARGS is set, because pip does not record the settings of its wheels.
        """
        if os.environ.get("CMAKE_ARGS"):
            return None
        name, _, version = self.pin.partition("==")
        stem = f"{name.replace('-', '_')}-{version}-"
        try:
            lines = self.pip.run("cache", "list", "--format", "abspath", stem.rstrip("-"))
        except PipFailed:
            return None
        wheels = [Path(line.strip()) for line in lines if line.strip().endswith(".whl")]
        return next((path for path in wheels if path.name.startswith(stem) and path.is_file()), None)

    def _store_wheel(self, wheel: Path) -> None:
        """Copy a wheel into the store. Ignores errors of the file system."""
        store = self._store
        if store is None:
            return
        with contextlib.suppress(OSError):
            store.mkdir(parents=True, exist_ok=True)
            part = store / f".{os.getpid()}.part"
            shutil.copyfile(wheel, part)
            part.replace(store / wheel.name)

    # -- source -----------------------------------------------------------------------------------------------------

    def _download(self, source: Path) -> Path | None:
        """Download a wheel and return it, or download a source distribution and unpack it into `source`."""
        self.report("fetching", None, self.pin)
        fetched = self.folder / "fetched"
        shutil.rmtree(fetched, ignore_errors=True)
        download = ["download", "--no-deps", "--dest", str(fetched), "--progress-bar", "off", self.pin]
        if has_compiler():
            self.pip.run(*download, read=self._report_download)
        else:
            try:
                self.pip.run(*download, "--only-binary", ":all:", "--retries", "1", read=self._report_download)
            except PipFailed as failure:
                if explain(failure.output) is NO_VERSION:
                    raise NoCompiler from failure
                raise
        wheel = next(fetched.glob("*.whl"), None)
        if wheel is None:
            _unpack(next(fetched.glob("*.tar.gz")), source)
        return wheel

    def _report_download(self, line: str) -> None:
        self.report("fetching", None, line.strip())

    def _compile(self, source: Path) -> Path:
        if not has_compiler():
            raise NoCompiler
        built = self.folder / "built"
        shutil.rmtree(built, ignore_errors=True)  # may contain an incomplete wheel
        steps = BuildProgress(self.folder / "steps")
        self.report("compiling", steps, "")

        def read(line: str) -> None:
            steps.read(line)
            self.report("compiling", steps, line.strip())

        arguments = ("wheel", "--verbose", "--no-deps", "--progress-bar", "off", "--wheel-dir", str(built))
        try:
            self.pip.run(*arguments, str(source), read=read, environment=self._environment(), niceness=NICENESS)
        except PipFailed as failure:
            if explain(failure.output) is OUT_OF_MEMORY:
                self._serial_marker.touch()
            raise
        wheel = next(built.glob("*.whl"))
        self._store_wheel(wheel)
        return wheel

    def _environment(self) -> dict[str, str]:
        """Return variables for scikit-build-core. The user's CMAKE_ARGS are applied later, so they take precedence."""
        definitions = [*_DEFINITIONS, f"CMAKE_PROJECT_llama_cpp_INCLUDE={ONLY_LLAMA}"]
        user_definitions = os.environ.get("SKBUILD_CMAKE_DEFINE", "")
        serial = {"CMAKE_BUILD_PARALLEL_LEVEL": "1"} if self._serial_marker.exists() else {}
        return {
            **serial,
            "SKBUILD_BUILD_DIR": str(self.folder / "build"),
            "SKBUILD_CMAKE_DEFINE": ";".join([*definitions, user_definitions] if user_definitions else definitions),
        }


def has_compiler() -> bool:
    """Whether there is a C++ compiler. CXX may contain arguments too, as in "ccache g++"."""
    candidates = ((os.environ.get("CXX") or "c++").split()[0], "g++", "clang++", *(("cl",) if os.name == "nt" else ()))
    return any(map(shutil.which, candidates))


def _unpack(archive: Path, target: Path) -> None:
    """Unpack the only folder of `archive` as `target`, completely or not at all; then delete the archive."""
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=target.parent) as temporary, tarfile.open(archive) as tar:
        if hasattr(tarfile, "data_filter"):
            tar.extractall(temporary, filter="data")
        else:  # a Python before 3.10.12 or 3.11.4
            tar.extractall(temporary)
        (folder,) = Path(temporary).iterdir()
        folder.rename(target)
    archive.unlink()
