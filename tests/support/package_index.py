"""An offline index of small packages for the real pip: wheels, and source packages whose builds wait for the test."""

from __future__ import annotations

import io
import json
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

# A custom build backend, so that pip needs no setuptools.
_BACKEND = """
import os, time, zipfile
from pathlib import Path

def build_wheel(folder, config_settings=None, metadata_directory=None):
    index = Path({index!r})
    with open(index / "builds", "a") as file:
        file.write(f"{{os.getpid()}}\\n")
    while not (index / "gate").exists():
        time.sleep(0.02)
    name = "slowly-1.0-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder) / name, "w") as wheel:
        for path, text in {files!r}.items():
            wheel.writestr(path, text)
    return name
"""


# A build like that of scikit-build-core with ninja: it writes a file for each step and skips steps that are done.
_COMPILING_BACKEND = """
import json, os, subprocess, sys, time, zipfile
from pathlib import Path

INDEX = Path({index!r})

def allowed():
    return int((INDEX / "allowed").read_text())

FILES = {files!r}

def prepare_metadata_for_build_wheel(folder, config_settings=None):
    dist_info = Path(folder, "compiled-1.0.dist-info")
    dist_info.mkdir()
    (dist_info / "METADATA").write_text(FILES["compiled-1.0.dist-info/METADATA"])
    return dist_info.name

def build_wheel(folder, config_settings=None, metadata_directory=None):
    objects = Path(os.environ["SKBUILD_BUILD_DIR"])
    objects.mkdir(exist_ok=True)
    facts = {{"defines": os.environ["SKBUILD_CMAKE_DEFINE"], "niceness": os.nice(0), "source": os.getcwd()}}
    compiler = subprocess.Popen(["sleep", "600"], preexec_fn=os.setpgrp)  # ninja starts compilers in the same way
    facts["compiler"] = compiler.pid
    facts["parallel"] = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL")
    with open(INDEX / "builds", "a") as file:
        file.write(json.dumps(facts) + "\\n")
    left = [number for number in range({steps}) if not (objects / str(number)).exists()]
    for count, number in enumerate(left, 1):
        while number >= allowed():
            time.sleep(0.02)
        if (INDEX / "failure").exists():
            print((INDEX / "failure").read_text(), flush=True)
            compiler.kill()
            sys.exit(1)
        (objects / str(number)).touch()
        print(f"[{{count}}/{{len(left)}}] c++ -c {{number}}.cpp", flush=True)
    compiler.kill()
    name = "compiled-1.0-py3-none-any.whl"
    with zipfile.ZipFile(Path(folder) / name, "w") as wheel:
        for path, text in FILES.items():
            wheel.writestr(path, text)
    return name
"""


class PackageIndex:
    """A folder of packages that serves as pip's only index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Configure pip with environment variables to find packages only in this folder."""
        config = {"NO_INDEX": "1", "FIND_LINKS": str(self.folder), "CONFIG_FILE": "/dev/null"}
        for name, value in {**config, "CACHE_DIR": str(self.folder / "cache")}.items():
            monkeypatch.setenv(f"PIP_{name}", value)
        monkeypatch.delenv("PIP_CONSTRAINT", raising=False)

    def add_wheel(self, name: str, version: str = "1.0", needs: str = "") -> None:
        with zipfile.ZipFile(self.folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            for path, text in _files(name, version, needs).items():
                wheel.writestr(path, text)

    def add_slow(self) -> None:
        """Add the package "slowly", whose build appends its process id to `builds` and waits for `open_gate`."""
        self._add_source("slowly", _BACKEND.format(index=str(self.folder), files=_files("slowly", "1.0", "")))

    def add_compiled(self, steps: int, sources: Mapping[str, str] | None = None) -> None:
        """Add the package "compiled", whose build has `steps` steps; `allow` limits how many of them may run.

        Its archive has the files `sources`, too.
        """
        backend = _COMPILING_BACKEND.format(index=str(self.folder), steps=steps, files=_files("compiled", "1.0", ""))
        self._add_source("compiled", backend, sources or {})
        self.allow(steps)

    def allow(self, steps: int) -> None:
        part = self.folder / "allowed.part"
        part.write_text(str(steps))
        part.replace(self.folder / "allowed")

    def fail_with(self, message: str) -> None:
        """Make the build of "compiled" print a message and fail."""
        (self.folder / "failure").write_text(message)

    def builds(self) -> list[dict[str, Any]]:
        """Return the facts that the builds of "compiled" recorded, in order."""
        try:
            return [json.loads(line) for line in (self.folder / "builds").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def _add_source(self, name: str, backend: str, sources: Mapping[str, str] = MappingProxyType({})) -> None:
        project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        with tarfile.open(self.folder / f"{name}-1.0.tar.gz", "w:gz") as archive:
            files = {"backend.py": backend, "pyproject.toml": project, "PKG-INFO": _metadata(name, "1.0", "")}
            for path, text in {**files, **sources}.items():
                entry = tarfile.TarInfo(f"{name}-1.0/{path}")
                entry.size = len(text.encode())
                archive.addfile(entry, io.BytesIO(text.encode()))

    def builders(self) -> list[int]:
        """Return the ids of the processes that have built "slowly" or are building it."""
        try:
            return [int(pid) for pid in (self.folder / "builds").read_text().split()]
        except FileNotFoundError:
            return []

    def await_builders(self, count: int) -> None:
        deadline = time.monotonic() + 30
        while len(self.builders()) < count:
            assert time.monotonic() < deadline, f"fewer than {count} builds within 30 s"
            time.sleep(0.02)

    def open_gate(self) -> None:
        (self.folder / "gate").touch()


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def _metadata(name: str, version: str, needs: str) -> str:
    requires = f"Requires-Dist: {needs}\n" if needs else ""
    return f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}"


def _files(name: str, version: str, needs: str) -> dict[str, str]:
    dist_info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f'VERSION = "{version}"\n',
        f"{dist_info}/METADATA": _metadata(name, version, needs),
        f"{dist_info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    return files | {f"{dist_info}/RECORD": "".join(f"{path},,{len(text)}\n" for path, text in files.items())}
