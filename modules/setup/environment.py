"""Set up the Python environment .venv: made once, and brought up to date when its requirements have changed.

Run by the system's Python with the standard library alone. One process at a time installs; the others wait for it.
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

from modules.core.errors import InstallFailed, Words
from modules.setup import install_errors
from modules.setup.pip import Pip, PipFailed
from modules.system import file_lock
from modules.system.terminal import ProgressLine, say, terminal_language

SUITABLE = {(3, minor) for minor in range(10, 14)}

_TITLE: Words = {"en": "the Python packages", "zh": "所需的 Python 软件包"}
_VENV_TITLE: Words = {"en": "the Python environment .venv", "zh": "Python 环境 .venv"}
_MAKING: Words = {"en": "Making the Python environment .venv ...", "zh": "正在创建 Python 环境 .venv……"}
_INSTALLING: Words = {
    "en": "Installing the packages of {file}; the first time takes a minute or two ...",
    "zh": "正在安装 {file} 中的软件包，首次需要一两分钟……",
}
_COLLECTING: Words = {"en": "Fetching package {count}: {name}", "zh": "正在获取第 {count} 个软件包：{name}"}
_WRITING: Words = {"en": "Installing {count} packages", "zh": "正在安装 {count} 个软件包"}
_WAITING: Words = {
    "en": "Another installation is under way; waiting for it ...",
    "zh": "另一个安装正在进行，等待其完成……",
}
_DISK: Words = {
    "en": "{needed} MB of disk space are needed, and {free} MB are free in {folder}.",
    "zh": "需要约 {needed} MB 磁盘空间，而 {folder} 所在磁盘只剩 {free} MB。",
}
_DETAILS: Words = {"en": "Details are in {log}", "zh": "详情见 {log}"}

_FIRST_MEGABYTES, _LATER_MEGABYTES = 3000, 500  # with torch and its like, and without
_COLLECTED = re.compile(r"Collecting ([A-Za-z0-9._-]+)")


@dataclass(frozen=True)
class Environment:
    """The environment of the project in the folder `root`."""

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

    def ensure(self, requirements: str, *options: str, meanwhile: Callable[[Path], None] = lambda python: None) -> None:
        """Install a requirements file unless that has been done; `options` go to pip. `meanwhile` is called with
        .venv's Python, as soon as there is one, to start what can be done beside. InstallFailed, whose facts the log
        completes."""
        if self.is_current(requirements):
            return
        self.log.parent.mkdir(exist_ok=True)
        with self._one_at_a_time():
            if not self.is_current(requirements):
                self._install(requirements, options, meanwhile)

    def is_current(self, requirements: str) -> bool:
        """Whether .venv works and holds this requirements file as it is now."""
        try:
            if (self.folder / "unfinished").exists():
                return False
            stamp = (self.folder / f"installed-{requirements}").read_text(encoding="utf-8").strip()
            return stamp == f"{self._version()} {self._hash(requirements)}"
        except OSError:
            return False

    def _version(self) -> str:
        """The version of .venv's Python, "3.11"; "" if it does not run, as when the Python that it was made with is
        gone."""
        if self.python.exists() and Path(sys.executable) == self.python:
            return "{}.{}".format(*sys.version_info)
        program = "import sys; print('%d.%d' % sys.version_info[:2])"
        with contextlib.suppress(OSError):
            told = subprocess.run([self.python, "-c", program], capture_output=True, text=True, check=False)
            return told.stdout.strip()
        return ""

    def _hash(self, requirements: str) -> str:
        return hashlib.sha256((self.root / requirements).read_bytes()).hexdigest()

    @contextlib.contextmanager
    def _one_at_a_time(self) -> Iterator[None]:
        descriptor = os.open(self.log.parent / "setup.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            if not file_lock.taken(descriptor):
                say(_WAITING)
                file_lock.wait_for(descriptor)
            yield
        finally:
            os.close(descriptor)

    def _install(self, requirements: str, options: tuple[str, ...], meanwhile: Callable[[Path], None]) -> None:
        self._check_disk()
        self._ensure_venv()
        unfinished = self.folder / "unfinished"
        unfinished.touch()
        meanwhile(self.python)
        say({language: text.format(file=requirements) for language, text in _INSTALLING.items()})
        shown = _Shown()
        try:
            Pip(str(self.python), log=self.log).run(
                *("install", "--progress-bar", "off", "-r", str(self.root / requirements), *options), read=shown.read
            )
        except PipFailed as failure:
            raise self._failed(_TITLE, failure.output) from failure
        finally:
            shown.line.clear()
            if not shown.writing:  # nothing has been changed: the environment is as sound as it was
                unfinished.unlink()
        stamp = f"{self._version()} {self._hash(requirements)}\n"
        (self.folder / f"installed-{requirements}").write_text(stamp, encoding="utf-8")
        unfinished.unlink(missing_ok=True)

    def _ensure_venv(self) -> None:
        """Make .venv unless there is one that works. What a killed installation has left cannot be trusted."""
        if self._works() and not (self.folder / "unfinished").exists():
            return
        say(_MAKING)
        # Not .venv's own interpreter, which is about to be removed.
        base = getattr(sys, "_base_executable", sys.executable)
        command = [base, "-m", "venv", "--clear", str(self.folder)]
        made = subprocess.run(command, capture_output=True, text=True, check=False)
        if made.returncode:
            output = made.stdout + made.stderr
            with self.log.open("a", encoding="utf-8") as log:
                log.write(output)
            raise self._failed(_VENV_TITLE, output)

    def _works(self) -> bool:
        major, _, minor = self._version().partition(".")
        if not minor or (int(major), int(minor)) not in SUITABLE:
            return False
        return subprocess.run([self.python, "-c", "import pip"], capture_output=True, check=False).returncode == 0

    def _check_disk(self) -> None:
        has_torch = any(self.folder.glob("lib/python3*/site-packages/torch-*"))
        needed = _LATER_MEGABYTES if has_torch else _FIRST_MEGABYTES
        free = shutil.disk_usage(self.root).free // 10**6
        if free < needed:
            facts = {"needed": needed, "free": free, "folder": self.root}
            raise InstallFailed(_TITLE, {language: text.format(**facts) for language, text in _DISK.items()})

    def _failed(self, what: Words, output: str) -> InstallFailed:
        cause = install_errors.explain(output)
        if cause is install_errors.NO_VERSION and "from versions: none" in output:
            cause = install_errors.NO_NETWORK  # every one of our requirements is published
        if cause is None:
            lines = [line for line in output.splitlines() if line.strip()]
            errors = [line for line in lines if line.startswith(("ERROR", "error"))]
            last = (errors or lines or [""])[-1]
            cause = dict.fromkeys(("zh", "en"), last[:200])
        details = {language: text.format(log=self.log) for language, text in _DETAILS.items()}
        return InstallFailed(what, {each: f"{cause[each]} {details[each]}" for each in ("zh", "en")})


class _Shown:
    """What the terminal shows of pip's work; `writing` once it has begun to change the environment."""

    def __init__(self) -> None:
        self.line = ProgressLine(sys.stdout)
        self.writing = False
        self._language = terminal_language()
        self._count = 0

    def read(self, line: str) -> None:
        if line.startswith("Installing collected packages"):
            self.writing = True
            self.line.show(_WRITING[self._language].format(count=line.count(",") + 1))
        elif match := _COLLECTED.match(line):
            self._count += 1
            self.line.show(_COLLECTING[self._language].format(count=self._count, name=match[1]))
