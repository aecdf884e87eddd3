"""Fixtures that many tests share, and a check that no test leaves a worker process behind."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.app import App
from modules.config import flags
from modules.core.events import Event, Info, Result
from modules.core.paths import ROOT
from modules.hub.client import HubClient
from modules.hub.file_source import HubFileSource
from modules.loaders.availability import overlay_of
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS, Loader
from modules.runtime.worker_process import WorkerProcess
from tests.support import hub_server, shallow_model
from tests.support.gguf_files import MODEL, gguf
from tests.support.hf_folder import transformers_folder
from tests.support.hub_reading import FILES, REPO
from tests.support.package_index import PackageIndex
from tests.support.tiny_model import tiny_gguf
from tests.support.trained_loras import trained_loras
from tests.support.worker_pool import POOLED_PIDS, WorkerPool

SMOLLM2 = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
LLAMA, TRANSFORMERS = LOADERS["llama.cpp"], LOADERS["Transformers"]
ECHO = dataclasses.replace(LLAMA, name="echo", engine="tests.support.echo", packages=(), overlay=None)
"""A row of the table for the tests' own engine."""


# -- resources: tests/support/stages.py sorts tests by them ------------------------------------------------------------


@pytest.fixture(scope="session")
def backend() -> None:
    """Real backend packages (torch, transformers, llama_cpp, …), imported in a process of the test's own."""


@pytest.fixture(scope="session")
def whole_program() -> None:
    """A whole program in a process of its own: server.py, download-model.py, start.sh, or one that tests/ holds."""


@pytest.fixture
def package_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackageIndex:
    """A package index in a folder, and the only one that pip knows."""
    index = PackageIndex(tmp_path / "index")
    index.use(monkeypatch)
    return index


def _find_llama_cpp() -> None:
    """Let this process, the workers that tests start themselves, and reference programs find llama_cpp where the
    program installs it; `ModelManager` gives its workers the overlay anyway."""
    overlay = overlay_of(LLAMA)
    if overlay is not None:
        sys.path.append(str(overlay.folder))
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(overlay.folder)]))


_find_llama_cpp()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The demo model, SmolLM2-135M-Instruct as a GGUF file."""
    if not SMOLLM2.is_file():
        pytest.fail(f"{SMOLLM2} is missing: run ./test.sh once", pytrace=False)
    return SMOLLM2


@pytest.fixture(scope="session")
def smollm2_folder(smollm2: Path) -> Path:
    """The demo model as transformers takes it, in bfloat16. Not to be written to: later runs use it again."""
    return transformers_folder(smollm2)


@pytest.fixture(scope="session")
def tiny(backend: None) -> Path:
    """The tiny model of tests/support/tiny_model.py as a GGUF file."""
    return tiny_gguf(SMOLLM2)


@pytest.fixture(scope="session")
def tiny_folder(tiny: Path) -> Path:
    """The tiny model as transformers takes it. Not to be written to."""
    return transformers_folder(tiny)


@pytest.fixture(scope="session")
def loras_folder(smollm2_folder: Path) -> Path:
    """A folder with two LoRAs for the demo model, "banana" and "green": see tests/support/trained_loras.py. Not to be
    written to either."""
    return trained_loras(smollm2_folder)


@pytest.fixture(scope="session")
def shallow_folder(smollm2_folder: Path) -> Path:
    """The demo model's first layers, see tests/support/shallow_model.py. Not to be written to."""
    return shallow_model.shallow_folder(smollm2_folder)


@pytest.fixture(scope="session")
def shallow_loras(loras_folder: Path) -> Path:
    """The LoRAs "banana" and "green" for those layers. Not to be written to."""
    return shallow_model.shallow_loras(loras_folder)


@pytest.fixture(scope="session")
def models_folder(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models that holds SmolLM2 alone."""
    folder = tmp_path_factory.mktemp("models")
    (folder / smollm2.name).symlink_to(smollm2)
    return folder


@pytest.fixture(scope="session")
def workers(backend: None) -> Iterator[WorkerPool]:
    """Workers with a loaded model, shared by all tests that ask for the same model, loader and options."""
    pool = WorkerPool(loaded)
    yield pool
    pool.close()


@pytest.fixture
def reloadable(workers: WorkerPool) -> WorkerProcess:
    """A worker that loads one Transformers model after another for all tests, so that torch is imported once."""
    return workers.reloadable()


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    """A worker that has loaded nothing yet."""
    process = WorkerProcess()
    yield process
    process.close()


@pytest.fixture
def echo(worker: WorkerProcess) -> WorkerProcess:
    """A worker that has loaded the tests' own engine."""
    load(worker, Path("anything"), ECHO)
    return worker


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[Callable[..., App]]:
    """Makes an App from words of the command line; models/ and settings.yaml lie in `tmp_path`, unless the words say
    otherwise. What it has loaded is let go of after the test."""
    (tmp_path / "models").mkdir(exist_ok=True)
    (tmp_path / "settings.yaml").touch()
    made: list[App] = []

    def make(*words: str) -> App:
        own = ("--model-dir", str(tmp_path / "models"), "--settings", str(tmp_path / "settings.yaml"))
        made.append(App(flags.parse([*own, *words])))
        return made[-1]

    yield make
    for app in made:
        app.downloads.close()
        app.overlays.close()
        app.models.unload()


@pytest.fixture
def small_models(tmp_path: Path, make_app: Callable[..., App]) -> Path:
    """Fill models/ of `make_app` with two small models and a damaged one."""
    folder = tmp_path / "models"
    (folder / "tiny-7B.gguf").write_bytes(gguf())
    (folder / "other.gguf").write_bytes(gguf({**MODEL, "llama.context_length": 8192}))
    (folder / "cut.gguf").write_bytes(gguf()[:-100])
    return folder


@pytest.fixture
def served() -> Iterator[hub_server.HubServer]:
    """A hub on localhost with one repository; see tests/support/hub_reading.py."""
    with hub_server.HubServer() as started:
        started.add(REPO, FILES)
        yield started


@pytest.fixture
def hub(served: hub_server.HubServer) -> Iterator[HubClient]:
    """Our end of `served`, with little patience."""
    asked = HubClient(served.url, connect_seconds=1, read_seconds=1)
    yield asked
    asked.close()


@pytest.fixture
def source(hub: HubClient) -> Iterator[HubFileSource]:
    """The files of the one repository."""
    opened = hub.source(hub.repository(REPO, "main"))
    yield opened
    opened.close()


@pytest.fixture
def free_port() -> int:
    """A port of localhost that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def load(worker: WorkerProcess, path: Path, loader: Loader = LLAMA, **options: object) -> Info:
    """Have `worker` load `path`, options not named at their defaults, and return what the engine says of the model."""
    return loaded(worker, path, loader, **options)[0]


def loaded(worker: WorkerProcess, path: Path, loader: Loader = LLAMA, **options: object) -> tuple[Info, list[Event]]:
    """As `load`; return the events of the load as well."""
    events = list(worker.events("load", **load_arguments(path, loader, **options)))
    assert isinstance(events[-1], Result), "a load ended without a result"
    return Info.from_json(events[-1].value), events


def load_arguments(path: Path, loader: Loader = LLAMA, **options: object) -> dict[str, object]:
    settings = resolve(loader, model={}, saved={}, flags={}, form=options)
    return {"engine": loader.engine, "path": str(path), "options": option_values(settings)}


def worker_pids(parent: int | str = "self") -> set[int]:
    """The workers among the children of process `parent`, without those of the pool.

    A child belongs to the thread that started it and, once that has ended, to another, which may have been read before:
    reading twice misses none.
    """
    children = _children(parent) | _children(parent)
    return {pid for pid in children - POOLED_PIDS if b"modules.worker" in _command_line(pid)}


def _children(parent: int | str) -> set[int]:
    found: set[int] = set()
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread that has ended
            found |= {int(pid) for pid in task.read_text().split()}
    return found


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()  # empty for one that has ended
    except OSError:
        return b""


class StartedWorkers:
    """Counts the worker processes that this process starts, so that tests that start none need no look at /proc."""

    def __init__(self) -> None:
        self.count = 0
        self._pids: set[int] = set()
        self._pids_at_count = 0
        sys.addaudithook(self._audit)

    def pids(self) -> set[int]:
        """The workers that run now; maybe some that have ended."""
        if self.count != self._pids_at_count:
            self._pids, self._pids_at_count = worker_pids(), self.count
        return self._pids

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "subprocess.Popen" and "modules.worker" in str(arguments[1]):
            self.count += 1


_STARTED = StartedWorkers()


@pytest.fixture(autouse=True)
def _no_worker_is_left_behind() -> Iterator[None]:
    """Fail a test that starts a worker and leaves it running. Fixtures of a longer life have started theirs before."""
    started = _STARTED.count
    before = _STARTED.pids()
    yield
    if _STARTED.count == started:
        return
    left = _once_settled(before)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"left behind: worker processes {sorted(left)}"


def _once_settled(before: set[int]) -> set[int]:
    deadline = time.monotonic() + 2
    while (left := worker_pids() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left
