"""A small engine driven through the real worker. What it does is said by the words of the prompt, or of the path.

A path: `fail` refuses, `boom` breaks, `abort` and `segv` die, `exit` calls sys.exit, `slow` loads for ten seconds and
`brief` for one, both with progress, `late <ms>` loads, and dies so much later; `refuse_cores` fails to bind its
threads; any other loads at once.

A prompt is a list of words, obeyed one after the other: see `Echo.generate`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping
from functools import partial
from pathlib import Path

from modules.core.errors import Unsupported, both
from modules.core.events import Done, Info, Json, Note, Progress, Text
from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import Report
from modules.options.option import Value


class Refusal(Unsupported):
    """An error of this engine's own, which the parent does not know."""


class Echo:
    def __init__(self, path: Path, options: Mapping[str, Value], report: Report) -> None:
        word, *rest = path.name.split()
        _LOADS.get(word, _at_once)(report, rest)
        self._options = options
        self._adapters: list[str] = []
        self._words: dict[str, int] = {}
        self._cores: list[list[int]] = []
        self._refuses_cores = word == "refuse_cores"
        self._ballast = bytearray(os.urandom(1 << 20) * 64) if word == "big" else b""
        self.info = Info(context_length=64, bos_token="<s>", notes=(Note("n_ctx", both("not used")),))
        self.operations = {
            "where": where,
            "options": lambda: dict(self._options),
            "repeat": lambda text, times: text * times,
            "apply_loras": self._apply_loras,
            "bind_threads": self._bind_threads,
            "bound": lambda: self._cores,
        }
        self.questions = {"count": lambda text: len(text.split())}

    def _apply_loras(self, adapters: list[dict[str, Json]]) -> list[float]:
        """Take over their names, and ten times their weights as effects. One called `fail` and so on is no success."""
        for each in adapters:
            _DEEDS.get(each["name"], lambda: None)()
        self._adapters = [each["name"] for each in adapters]
        return [10 * each["weight"] for each in adapters]

    def _bind_threads(self, cores: list[list[int]]) -> list[list[int]]:
        """Remember the cores, or decline them under `numa`, as llama.cpp's engine does."""
        if self._refuses_cores:
            raise Unsupported(both("the echo engine will not"))
        self._cores = [] if self._options["numa"] else cores
        return self._cores

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        """A token is a word, told by its place in the list of all words that have been read."""
        for word in text.split():
            self._words.setdefault(word, len(self._words))
        return [self._words[word] for word in text.split()]

    def generate(self, prompt: list[int], params: Mapping[str, Json]) -> Generator[Text | Progress, None, Done]:
        """Say each word of `prompt`, but for those with a meaning of their own:

        count N says the numbers below N; adapters says those in force; slow sleeps before each later word; progress
        reports half the way; fail, refuse, boom raise; abort, segv, kill, exit die; chatter prints; stubborn does not
        let itself be closed.
        """
        vocabulary = list(self._words)
        words = iter([vocabulary[token] for token in prompt])
        pause = 0.0
        said = 0
        for word in words:
            if word == "slow":
                pause = 0.05
            elif word == "adapters":
                yield Text(",".join(self._adapters) + " ")
            elif word == "progress":
                yield Progress("prompt", 0.5)
            elif word == "stubborn":
                yield from _stubborn()
            elif word in _DEEDS:
                _DEEDS[word]()
            else:
                for text in map(str, range(int(next(words)))) if word == "count" else (word,):
                    time.sleep(pause)
                    yield Text(text + " ")
                    said += 1
        return Done("stop", prompt_tokens=len(prompt), completion_tokens=said)


def where(package: str = "") -> Json:
    """Where this process stands and, if asked, where it finds `package`."""
    found = __import__(package).__file__ if package else ""
    return {"pid": os.getpid(), "cwd": os.getcwd(), "path": sys.path, "package": found, "env": dict(os.environ)}


def _at_once(report: Report, rest: list[str]) -> None:
    report(Progress("weights", 1.0))


def _slowly(report: Report, rest: list[str], steps: int = 200) -> None:
    for step in range(steps):
        report(Progress("weights", step / steps))
        time.sleep(0.05)


def _doomed(report: Report, rest: list[str]) -> None:
    threading.Timer(int(rest[0]) / 1000, os._exit, [3]).start()


def _fail() -> None:
    raise Unsupported(both("the echo engine will not"))


def _refuse() -> None:
    raise Refusal(both("in words of its own"))


def _boom() -> None:
    raise RuntimeError("the echo engine broke")


def _abort() -> None:
    os.write(2, b"first words\nlast words: about to abort\n")
    os.abort()


def _segv() -> None:
    os.write(2, b"last words: about to read address 0\n")
    ctypes.string_at(0)


def _exit() -> None:
    print("last words: about to exit", file=sys.stderr)
    sys.exit("the reason given to sys.exit")


def _chatter() -> None:
    """All the ways a library has to write where it should not."""
    print("printed by Python", '[1,"Text",{"text":"forged","tokens":1}]')
    sys.stdout.flush()
    os.write(1, b"written to descriptor 1\n")
    os.system("echo printed by a child process; cat")  # `cat` would read our requests if it could
    os.write(2, b"\rat  10%" * 3 + "\rat 100% 完\n".encode() + b"\xff\n")


def _stubborn() -> Generator[Text, None, None]:
    while True:
        try:
            yield Text("no ")
        except GeneratorExit:
            yield Text("still here ")


_DEEDS: dict[str, Callable[[], None]] = {
    "fail": _fail,
    "refuse": _refuse,
    "boom": _boom,
    "abort": _abort,
    "segv": _segv,
    "exit": _exit,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "chatter": _chatter,
}

_LOADS: dict[str, Callable[[Report, list[str]], None]] = {
    "slow": _slowly,
    "brief": partial(_slowly, steps=20),
    "late": _doomed,
    **{word: lambda _report, _rest, deed=deed: deed() for word, deed in _DEEDS.items()},
}


LOADER = EngineLoader[None](
    "Echo",
    environment=lambda: None,
    arguments=lambda path, options, _environment: {"echo": {"path": str(path), "n_ctx": options["n_ctx"]}},
    notes=lambda _path, _options, _environment: (),
    load=Echo,
)
