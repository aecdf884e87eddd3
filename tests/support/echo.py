"""A small test engine for the real worker. The words of the path and of the prompt control its behavior.

Paths: `fail` and `refuse` raise errors for the user, `boom` an unexpected one; `abort`, `segv` and `kill` end the
process, `exit` calls sys.exit; `slow` loads for ten seconds and `brief` for 0.4, both with progress; `late <ms>` loads
and ends the process after that time; `bos` puts BOS before texts; `refuse_cores` fails to bind its threads; `big`
allocates 64 MiB; `timed` says how long its answers took: see `Echo._seconds`; `sees` reads pictures, of which it echoes
the marks. Any other path loads at once.

A prompt is a list of words that are executed in order: see `Echo.generate`.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from functools import partial
from pathlib import Path

from modules.core.errors import Unsupported, both
from modules.core.events import Done, Info, Json, Note, Progress, Text
from modules.core.prompt import Image
from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import Report
from modules.engines.loglikelihoods import Loglikelihoods, Window
from modules.engines.time_limit import time_limit
from modules.options.option import Value

BOS = 0


class Refusal(Unsupported):
    """An error class that the parent process does not know."""


class Echo:
    def __init__(self, path: Path, options: Mapping[str, Value], report: Report) -> None:
        word, *arguments = path.name.split()
        _LOADS.get(word, _load_at_once)(report, arguments)
        self._options = options
        self._adapters: list[str] = []
        self._words: dict[str, int] = {}
        self._cores: list[list[int]] = []
        self._refuses_cores = word == "refuse_cores"
        self._is_timed = word == "timed"
        self._ballast = bytearray(os.urandom(1 << 20) * 64) if word == "big" else b""
        self.info = Info(
            context_length=64,
            special_tokens={"bos_token": "<s>"},
            notes=(Note("n_ctx", both("not used")),),
            vocabulary_size=8,
            images=word == "sees",
        )
        self.operations = {
            "where": where,
            "options": lambda: dict(self._options),
            "repeat": lambda text, times: text * times,
            "apply_loras": self._apply_loras,
            "bind_threads": self._bind_threads,
            "bound": lambda: self._cores,
            "loglikelihoods": self._loglikelihoods,
        }
        self._released = threading.Event()
        self._bos = [BOS] if word == "bos" else []
        self.questions = {
            "count": self._count,
            "release": self._release,
            "encode": self._encode,
            "decode": lambda tokens: " ".join(map(str, tokens)),
            "pieces": self._pieces,
        }

    def _encode(self, text: str, add_special: bool = True) -> list[int]:
        """Return a token for each word: a digit is its own, any other word is BOS."""
        return [*(self._bos if add_special else []), *(int(word) if word.isdigit() else BOS for word in text.split())]

    def _pieces(self, text: str, add_special: bool = True) -> list[list[Json]]:
        """Return the tokens of `text`, of two bytes each."""
        return [[token, f"{token} ", f"{token} ".encode().hex(), False] for token in self._encode(text, add_special)]

    def _count(self, text: str) -> int:
        return len(self._words_of(text))

    def _release(self) -> None:
        self._released.set()

    def _words_of(self, text: str) -> list[str]:
        """Split `text`; if it begins with `held`, only once `release` has been asked."""
        if text.startswith("held"):
            self._released.wait()
        return text.split()

    def _apply_loras(self, adapters: list[dict[str, Json]]) -> list[float]:
        """Store the names and return ten times the weights as effects. A name such as `fail` is executed first."""
        for adapter in adapters:
            _ACTIONS.get(adapter["name"], lambda: None)()
        self._adapters = [adapter["name"] for adapter in adapters]
        return [10 * adapter["weight"] for adapter in adapters]

    def _loglikelihoods(
        self, tokens: list[int], first: int, keep: str = "", against: str = ""
    ) -> Generator[None, None, Json]:
        """Score targets in parts of one token each, in half a millisecond each.

        The log-probability of a token is its number, negated, less the number of applied LoRAs. The last token of the
        vocabulary breaks it.
        """
        window = Window(tokens, first, self.info.context_length, self.info.vocabulary_size, self.info.vocabulary_size)
        logprobs = []
        for token in window.targets:
            if token == self.info.vocabulary_size - 1:
                _boom()
            time.sleep(0.0005)
            logprobs.append(-token - len(self._adapters))
            yield
        return Loglikelihoods(logprobs).to_json()

    def _bind_threads(self, cores: list[list[int]], workers: int = 1) -> list[list[int]]:
        """Store the cores, or none with the option `numa`, like the llama.cpp engine."""
        if self._refuses_cores:
            raise Unsupported(both("the echo engine will not"))
        self._cores = [] if self._options["numa"] else cores
        return self._cores

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        """Return a token for each word: its index in the list of all words so far."""
        words = self._words_of(text)
        for word in words:
            self._words.setdefault(word, len(self._words))
        return [self._words[word] for word in words]

    def read_images(self, images: Sequence[Image], text: str) -> list[str]:
        """Return the ids of pictures, which are not looked at."""
        return [image.id for image in images]

    def generate(self, prompt: list[int], params: Mapping[str, Json]) -> Generator[Text | Progress, None, Done]:
        """Generate the words of `prompt`, except for these commands:

        count N generates the numbers below N; adapters generates the names of the applied LoRAs; slow sleeps before
        every following word; progress reports 50 %; fail, refuse and boom raise; abort, segv, kill and exit end the
        process; stuck exceeds the time limit; chatter prints; stubborn ignores being closed.
        """
        vocabulary = list(self._words)
        words = iter([vocabulary[token] if token < len(vocabulary) else str(token) for token in prompt])
        pause = 0.0
        generated = 0
        for word in words:
            if word == "slow":
                pause = 0.05
            elif word == "adapters":
                yield Text(",".join(self._adapters) + " ")
            elif word == "progress":
                yield Progress("prompt", 0.5)
            elif word == "stubborn":
                yield from _stubborn()
            elif word in _ACTIONS:
                _ACTIONS[word]()
            else:
                for text in map(str, range(int(next(words)))) if word == "count" else (word,):
                    time.sleep(pause)
                    yield Text(text + " ")
                    generated += 1
        return Done("stop", prompt_tokens=len(prompt), completion_tokens=generated, **self._seconds(generated))

    def _seconds(self, generated: int) -> dict[str, float]:
        """Return the times of an answer: 10 ms for its prompt, and 1 ms a token, twice that with `numa`."""
        if not self._is_timed:
            return {}
        return {"prompt_seconds": 0.01, "decode_seconds": (generated - 1) * (0.002 if self._options["numa"] else 0.001)}


def where(package: str = "") -> Json:
    """Describe this process and the file of `package`, if given."""
    file = __import__(package).__file__ if package else ""
    return {"pid": os.getpid(), "cwd": os.getcwd(), "path": sys.path, "package": file, "env": dict(os.environ)}


def _load_at_once(report: Report, arguments: list[str]) -> None:
    report(Progress("weights", 1.0))


def _load_slowly(report: Report, arguments: list[str], steps: int = 200) -> None:
    for step in range(steps):
        report(Progress("weights", step / steps))
        time.sleep(0.05)


def _exit_later(report: Report, arguments: list[str]) -> None:
    threading.Timer(int(arguments[0]) / 1000, os._exit, [3]).start()


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
    """Write to stdout and stderr in all the ways that a library may."""
    print("printed by Python", '[1,"Text",{"text":"forged","tokens":1}]')
    sys.stdout.flush()
    os.write(1, b"written to descriptor 1\n")
    os.system("echo printed by a child process; cat")  # `cat` tries to read the worker's requests
    os.write(2, b"\rat  10%" * 3 + "\rat 100% 完\n".encode() + b"\xff\n")


def _stubborn() -> Generator[Text, None, None]:
    while True:
        try:
            yield Text("no ")
        except GeneratorExit:
            yield Text("still here ")


def _stay_in_native_code() -> None:
    """Hold the GIL for a minute, but for the time limit."""
    with time_limit(0.2):
        ctypes.PyDLL(None).sleep(60)


_ACTIONS: dict[str, Callable[[], None]] = {
    "fail": _fail,
    "refuse": _refuse,
    "boom": _boom,
    "abort": _abort,
    "segv": _segv,
    "exit": _exit,
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "chatter": _chatter,
    "stuck": _stay_in_native_code,
}

_LOADS: dict[str, Callable[[Report, list[str]], None]] = {
    "slow": _load_slowly,
    "brief": partial(_load_slowly, steps=8),
    "late": _exit_later,
    **{word: lambda _report, _arguments, action=action: action() for word, action in _ACTIONS.items()},
}


LOADER = EngineLoader[None](
    "Echo",
    environment=lambda: None,
    arguments=lambda path, options, _environment: {"echo": {"path": str(path), "n_ctx": options["n_ctx"]}},
    notes=lambda _path, _options, _environment: (),
    load=Echo,
)
