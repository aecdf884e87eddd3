"""`download-model.py`: what is asked for, how it comes along, and an exit status that does not lie.

0 if everything is there and verified, 1 if not, 2 if it was asked wrongly, 130 if stopped by Ctrl-C.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from modules.cli import download_flags
from modules.config import settings
from modules.core.errors import CommandLineError, OptionError, UnknownOption, Unsupported, WebUIError
from modules.core.paths import ROOT
from modules.downloads.checksum import digest, expected, read_back
from modules.downloads.install_files import Place
from modules.downloads.manager import Downloads
from modules.downloads.record import Wanted
from modules.downloads.request import wanted
from modules.downloads.retry import Pace
from modules.downloads.view import JobView
from modules.hub import file_choices
from modules.hub.errors import BadAddress, BadEndpoint, BadToken
from modules.hub.mirrors import Hubs, token_from
from modules.hub.repository import Kind, RemoteFile, Repository
from modules.options.option import Value
from modules.system.terminal import terminal_language

_ASKED_WRONGLY = (CommandLineError, OptionError, UnknownOption, BadAddress, BadEndpoint, BadToken)
_BAR_SECONDS, _LINE_SECONDS = 0.2, 5.0
_BAR, _LEAST_COLUMNS = 20, 40

_WORDS: Mapping[str, Mapping[str, str]] = {
    "en": {
        "queued": "waiting",
        "resolving": "asking {host}",
        "downloading": "downloading",
        "paused": "paused",
        "verifying": "verifying",
        "elsewhere": "another process is downloading it",
        "moved": "{revision} is another commit by now: beginning anew.",
        "done": "Saved to {folder}: {count} files, {size}, all verified (by the hashes that {host} has listed).",
        "stopped": "Stopped. What is here stays; the same command goes on with it.",
        "file": "file {index}/{count}",
        "ok": "ok       {path}",
        "missing": "missing  {path}",
        "damaged": "damaged  {path}",
        "sound": "All {count} files are there and right.",
        "unsound": "{bad} of {count} files are missing or damaged.",
    },
    "zh": {
        "queued": "等待中",
        "resolving": "正在询问 {host}",
        "downloading": "正在下载",
        "paused": "已暂停",
        "verifying": "正在校验",
        "elsewhere": "另一进程正在下载",
        "moved": "{revision} 已指向新的版本，重新开始下载。",
        "done": "已保存到 {folder}，{count} 个文件，{size}，全部校验通过（校验值来自 {host}）。",
        "stopped": "已停止。已下载部分保留，再次运行相同命令即可继续。",
        "file": "文件 {index}/{count}",
        "ok": "正确  {path}",
        "missing": "缺少  {path}",
        "damaged": "损坏  {path}",
        "sound": "{count} 个文件齐全且正确。",
        "unsound": "{count} 个文件中有 {bad} 个缺少或损坏。",
    },
}


def main(words: Sequence[str]) -> int:
    """Do what the command line says; the exit status."""
    language = terminal_language()
    logging.basicConfig(level=logging.ERROR, format="%(message)s")  # what fails is told below
    try:
        asked = download_flags.read(words)
        errand = Errand(asked, os.environ, language)
        return errand.check() if asked["check"] else errand.download()
    except WebUIError as error:
        print(error.say(language), file=sys.stderr)
        return 2 if isinstance(error, _ASKED_WRONGLY) else 1
    except KeyboardInterrupt:
        print("\n" + _WORDS[language]["stopped"], file=sys.stderr)
        return 130


@dataclass(frozen=True)
class Choice:
    """The `files` asked for, and where they go."""

    files: tuple[RemoteFile, ...]
    wish: Wanted


class Errand:
    """One run of the program. `asked` is as of `download_flags.read`, `environment` that of the process."""

    def __init__(self, asked: Mapping[str, Value], environment: Mapping[str, str], language: str) -> None:
        self._asked, self._words = asked, _WORDS[language]
        self._hubs = Hubs(self._text("hf_endpoint"), _setting, token_from(environment))
        output = Path(self._text("output")) if asked["output"] else None
        self._folders: dict[Kind, Path] = {
            "model": output or Path(self._text("model_dir") or ROOT / "models"),
            "lora": output or Path(self._text("lora_dir") or ROOT / "loras"),
        }

    def _text(self, key: str) -> str:
        return str(self._asked[key])

    # -- what is asked for ------------------------------------------------------------------------------------------

    def _chosen(self) -> Choice:
        address = self._hubs.address(self._text("MODEL"))
        if branch := self._text("branch"):  # by the same grammar
            revision = self._hubs.address(f"{address.repo}:{branch}").revision
            address = dataclasses.replace(address, revision=revision)
        repository = self._hubs.repository(address)
        files = self._files(repository, self._text("specific_file") or address.file)
        if pattern := self._text("exclude_pattern"):
            files = file_choices.excluding(files, pattern)
        wish = wanted(repository, files, self._hubs.kind(repository, files))
        return Choice(files, dataclasses.replace(wish, target="") if self._asked["output"] else wish)

    def _files(self, repository: Repository, specific: str) -> tuple[RemoteFile, ...]:
        if specific:
            return file_choices.single(repository, specific)
        if self._asked["text_only"]:
            return file_choices.text_only(repository)
        if file_choices.kind(repository) == "gguf":
            return _recommended(repository)
        known = file_choices.choices(repository)
        names = [each.name for each in known if each.ticked]
        if any(each.warning is file_choices.ONLY_PICKLES for each in known):
            if not self._asked["allow_pickles"]:
                raise Unsupported({key: f"{said} (--allow-pickles)" for key, said in file_choices.ONLY_PICKLES.items()})
            names += [each.name for each in known if each.group == "pickle"]
        return file_choices.picked(repository, names)

    # -- doing it ---------------------------------------------------------------------------------------------------

    def download(self) -> int:
        choice = self._chosen()
        downloads = Downloads(self._folders, self._hubs.open, self._pace())
        try:
            view = self._follow(downloads, choice.wish)
        finally:
            downloads.close()
        size = _size(sum(file.size for file in choice.files))
        about = {"folder": view.folder, "count": len(choice.files), "size": size, "host": view.host}
        print(self._words["done"].format(**about))
        return 0

    def _pace(self) -> Pace:
        retries, waits = int(self._asked["max_retries"]), Pace().waits
        patience = (*waits, *[waits[-1]] * retries)[:retries]
        return Pace(waits=patience, connections=int(self._asked["threads"]))

    def _follow(self, downloads: Downloads, wish: Wanted) -> JobView:
        """Until it is done. The error that it fails with."""
        if self._asked["clean"]:
            _forget(downloads, wish)
        job, progress = downloads.start(wish), Progress(sys.stdout, self._words)
        while True:
            view = next((each for each in downloads.snapshot() if each.id == job), None)
            if view is None:  # the other process that was at it has done it, or given it up
                job = downloads.start(wish)
            elif view.moved:
                progress.say(self._words["moved"].format(revision=wish.revision))
                downloads.resume(job, keep_commit=False)
            elif view.error:
                progress.end()
                raise view.error
            elif view.state == "done":
                progress.end()
                return view
            else:
                progress.show(view)
            time.sleep(_BAR_SECONDS)

    def check(self) -> int:
        """Read what is here of the files asked for, and of no others."""
        choice = self._chosen()
        place = Place(self._folders[choice.wish.kind], choice.wish.target, "", choice.wish.flat)
        found = {file: _state(file, place.root / place.below(file.path)) for file in choice.files}
        for file, state in found.items():
            print(self._words[state].format(path=place.below(file.path)))
        bad = sum(state != "ok" for state in found.values())
        print(self._words["unsound" if bad else "sound"].format(bad=bad, count=len(found)))
        return 1 if bad else 0


def _setting() -> str:
    return settings.read(ROOT / "settings.yaml").hf_endpoint


def _recommended(repository: Repository) -> tuple[RemoteFile, ...]:
    """The GGUF file that there is, or the one most people want, as the original chose. OptionError names all."""
    names = [each.name for each in file_choices.choices(repository) if each.group == "gguf"]
    usual = [each.name for each in file_choices.choices(repository) if each.recommended and each.group == "gguf"]
    if len(names) > 1 and len(usual) != 1:
        listing = "".join(f"\n  {name}" for name in names)
        raise OptionError("--specific-file", "", {"en": f"one of:{listing}", "zh": f"以下之一：{listing}"})
    return file_choices.picked(repository, usual or names)


def _forget(downloads: Downloads, wish: Wanted) -> None:
    """What an earlier run has left unfinished of the same."""
    for view in downloads.snapshot():
        if view.wanted.same == wish.same:
            downloads.cancel(view.id)


def _state(file: RemoteFile, path: Path) -> str:
    """ "ok", "missing" or "damaged"."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return "missing"
    try:
        if os.fstat(descriptor).st_size != file.size:
            return "damaged"
        return "ok" if read_back(descriptor, digest(file), lambda _: None) == expected(file) else "damaged"
    except OSError:  # a folder, or a disk that cannot read it
        return "damaged"
    finally:
        os.close(descriptor)


# -- how it comes along ----------------------------------------------------------------------------------------------


class Progress:
    """A bar on a terminal; elsewhere a line now and then."""

    def __init__(self, to: TextIO, words: Mapping[str, str]) -> None:
        self._to, self._words, self._on_terminal = to, words, to.isatty()
        self._said, self._next, self._drawn = "", 0.0, False

    def show(self, view: JobView) -> None:
        if self._on_terminal:
            columns = max(_LEAST_COLUMNS, shutil.get_terminal_size().columns) - 1
            self._put("\r" + _fitted(f"{_bar(view)} {self._line(view)}", columns) + "\x1b[K")
            self._drawn = True
            return
        state, now = self._state(view), time.monotonic()
        if state != self._said or now >= self._next:
            self._said, self._next = state, now + _LINE_SECONDS
            self._put(self._line(view) + "\n")

    def say(self, sentence: str) -> None:
        self.end()
        self._put(sentence + "\n")

    def end(self) -> None:
        if self._drawn:
            self._put("\n")
            self._drawn = False

    def _put(self, text: str) -> None:
        self._to.write(text)
        self._to.flush()

    def _state(self, view: JobView) -> str:
        return self._words["elsewhere" if view.elsewhere else view.state].format(host=view.host or "…")

    def _line(self, view: JobView) -> str:
        parts = [self._state(view)]
        if view.total:
            parts.append(f"{100 * view.done // view.total}% {_size(view.done)}/{_size(view.total)}")
        if view.speed and view.state == "downloading":
            parts.append(f"{_size(int(view.speed))}/s {_clock(view.seconds_left or 0)}")
        if view.index:
            parts.append(f"{self._words['file'].format(index=view.index, count=view.count)} {view.file}")
        return " · ".join(parts)


def _bar(view: JobView) -> str:
    full = _BAR * view.done // view.total if view.total else 0
    return f"[{'#' * full}{'.' * (_BAR - full)}]"


def _fitted(line: str, columns: int) -> str:
    """`line`, cut to what a terminal shows in one row; a Chinese character takes two columns."""
    width = 0
    for place, each in enumerate(line):
        width += 2 if ord(each) >= 0x1100 and each.isalpha() else 1
        if width > columns:
            return line[:place]
    return line


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _size(count: int) -> str:
    """Decimal, as file managers and download sites count."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= factor:
            return f"{count / factor:.{2 if unit == 'GB' else 1}f} {unit}"
    return f"{count} B"
