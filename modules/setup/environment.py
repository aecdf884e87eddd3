"""Create the Python environment .venv, and update it when the requirements have changed.

Runs on the system's Python with the standard library only. One process at a time installs; others wait for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import InstallFailed, Words, both
from modules.setup import install_errors
from modules.setup.pip import Pip, PipFailed
from modules.system import file_lock
from modules.system.terminal import ProgressLine, say, terminal_language

SUPPORTED_PYTHONS = {(3, minor) for minor in range(10, 14)}

_TITLE: Words = {"en": "the Python packages", "zh": "所需的 Python 软件包"}
_VENV_TITLE: Words = {"en": "the Python environment .venv", "zh": "Python 环境 .venv"}
_CREATING: Words = {"en": "Creating the Python environment .venv ...", "zh": "正在创建 Python 环境 .venv……"}
_INSTALLING: Words = {
    "en": "Installing the packages of {file}. The first time takes a minute or two ...",
    "zh": "正在安装 {file} 中的软件包，首次需要一两分钟……",
}
_COLLECTING: Words = {"en": "Downloading package {count}: {name}", "zh": "正在下载第 {count} 个软件包：{name}"}
_UNPACKING: Words = {"en": "Installing {count} packages", "zh": "正在安装 {count} 个软件包"}
_WAITING: Words = {
    "en": "Waiting for another installation to finish ...",
    "zh": "另一个安装正在进行，等待其完成……",
}
_DISK: Words = {
    "en": "{needed} MB of disk space are needed, but only {free} MB are free in {folder}.",
    "zh": "需要约 {needed} MB 磁盘空间，而 {folder} 所在磁盘只剩 {free} MB。",
}
_DETAILS: Words = {"en": "See {log} for details.", "zh": "详情见 {log}。"}

_FIRST_MEGABYTES, _UPDATE_MEGABYTES = 3000, 500  # with torch and without
_COLLECTED = re.compile(r"Collecting ([A-Za-z0-9._-]+)")


@dataclass(frozen=True)
class Environment:
    """The Python environment of the project in `root`."""

    root: Path

    @property
    def folder(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")

    @property
    def log(self) -> Path:
        return self.root / "logs" / "setup.log"

    def ensure(
        self, requirements: str, *options: str, while_installing: Callable[[Path], None] = lambda python: None
    ) -> None:
        """Install a requirements file unless it is installed.

        `options` are passed to pip. `while_installing` is called with the path of .venv's Python before pip runs, to
        start other work in the background. Raises InstallFailed; the details are in `log`.
        """
        if self.is_current(requirements):
            return
        try:
            self.log.parent.mkdir(exist_ok=True)
            with self._exclusive():
                if not self.is_current(requirements):
                    self._install(requirements, options, while_installing)
        except OSError as error:  # in the log there may be nothing
            cause, words = install_errors.explain(str(error)), str(error)
            raise InstallFailed(_TITLE, cause or both(words), words if cause else "") from error

    def is_current(self, requirements: str) -> bool:
        """Whether .venv works and the present version of the requirements file is installed in it."""
        try:
            if (self.folder / "unfinished").exists():
                return False
            stamp = (self.folder / f"installed-{requirements}").read_text(encoding="utf-8").strip()
            return stamp == f"{self._version()} {self._hash(requirements)}"
        except OSError:
            return False

    def _version(self) -> str:
        """Return the version of .venv's Python, such as "3.11"; "" if it does not run.

        It does not if the Python that created it has been removed.
        """
        if self.python.exists() and Path(sys.executable) == self.python:
            return "{}.{}".format(*sys.version_info)
        program = "import sys; print('%d.%d' % sys.version_info[:2])"
        with contextlib.suppress(OSError):
            result = subprocess.run([self.python, "-c", program], capture_output=True, text=True, check=False)
            return result.stdout.strip()
        return ""

    def _hash(self, requirements: str) -> str:
        return hashlib.sha256((self.root / requirements).read_bytes()).hexdigest()

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        descriptor = os.open(self.log.parent / "setup.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not file_lock.try_acquire(descriptor):
                say(_WAITING)
                file_lock.acquire(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _install(self, requirements: str, options: tuple[str, ...], while_installing: Callable[[Path], None]) -> None:
        self._check_disk()
        self._ensure_venv()
        unfinished = self.folder / "unfinished"
        unfinished.touch()
        while_installing(self.python)
        say({language: text.format(file=requirements) for language, text in _INSTALLING.items()})
        progress = _PipProgress()
        try:
            Pip(str(self.python), log=self.log).run(
                *("install", "--progress-bar", "off", "-r", str(self.root / requirements), *options), read=progress.read
            )
        except PipFailed as failure:
            raise self._failed(_TITLE, failure.output) from failure
        finally:
            progress.line.clear()
            if not progress.has_changed_environment:
                unfinished.unlink()
        stamp = f"{self._version()} {self._hash(requirements)}\n"
        (self.folder / f"installed-{requirements}").write_text(stamp, encoding="utf-8")
        unfinished.unlink(missing_ok=True)

    def _ensure_venv(self) -> None:
        """Create .venv unless it exists, works and was not left incomplete by a killed installation."""
        if self._works() and not (self.folder / "unfinished").exists():
            return
        say(_CREATING)
        # Not .venv's own interpreter, which this command removes.
        base = getattr(sys, "_base_executable", sys.executable)
        command = [base, "-m", "venv", "--clear", str(self.folder)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            output = result.stdout + result.stderr
            with self.log.open("a", encoding="utf-8") as log:
                log.write(output)
            raise self._failed(_VENV_TITLE, output)

    def _works(self) -> bool:
        major, _, minor = self._version().partition(".")
        if not minor or (int(major), int(minor)) not in SUPPORTED_PYTHONS:
            return False
        return subprocess.run([self.python, "-c", "import pip"], capture_output=True, check=False).returncode == 0

    def _check_disk(self) -> None:
        has_torch = any(self.folder.glob("lib/python3*/site-packages/torch-*"))
        needed = _UPDATE_MEGABYTES if has_torch else _FIRST_MEGABYTES
        free = shutil.disk_usage(self.root).free // 10**6
        if free < needed:
            facts = {"needed": needed, "free": free, "folder": self.root}
            raise InstallFailed(_TITLE, {language: text.format(**facts) for language, text in _DISK.items()})

    def _failed(self, what: Words, output: str) -> InstallFailed:
        cause = install_errors.explain(output)
        if cause is install_errors.NO_VERSION and "from versions: none" in output:
            cause = install_errors.NO_NETWORK  # all requirements are on PyPI, so the index was not reached
        if cause is None:
            lines = [line for line in output.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith(("ERROR", "error"))]
            last = (errors or lines or [""])[-1]
            cause = dict.fromkeys(("zh", "en"), last[:200])
        details = {language: text.format(log=self.log) for language, text in _DETAILS.items()}
        words = {language: f"{cause[language]} {details[language]}".lstrip() for language in ("zh", "en")}
        return InstallFailed(what, words)


class _PipProgress:
    """Progress of pip in the terminal. `has_changed_environment` is set when pip starts to write into .venv."""

    def __init__(self) -> None:
        self.line = ProgressLine(sys.stdout)
        self.has_changed_environment = False
        self._language = terminal_language()
        self._count = 0

    def read(self, line: str) -> None:
        if line.startswith("Installing collected packages"):
            self.has_changed_environment = True
            self.line.show(_UNPACKING[self._language].format(count=line.count(",") + 1))
        elif match := _COLLECTED.match(line):
            self._count += 1
            self.line.show(_COLLECTING[self._language].format(count=self._count, name=match[1]))
