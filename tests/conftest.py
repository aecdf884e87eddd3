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
from modules.engines.llamacpp.amx import uses_amx
from modules.hub.client import HubClient
from modules.hub.file_source import HubFileSource
from modules.loaders.availability import overlay_of
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS, Loader
from modules.runtime.worker_process import WorkerProcess
from modules.system import cpu_memory
from tests.support import hub_server, shallow_model
from tests.support.forked_children import ForkedChildren
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
"""The registry row of the test engine."""


# -- resources, by which tests/support/stages.py sorts tests into stages -----------------------------------------------


@pytest.fixture(scope="session")
def backend() -> None:
    """Marks tests that import real backend packages (torch, transformers, llama_cpp, …) in a child process."""


@pytest.fixture(scope="session")
def whole_program() -> None:
    """Marks tests that start a complete program: server.py, download-model.py, start.sh, or a script of tests/."""


_FORKED_CHILDREN = ForkedChildren(POOLED_PIDS)


@pytest.fixture(scope="session")
def new_processes() -> None:
    """Marks unit tests of the start of a child process: workers, renderers and trainers are no forks in them."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    is_unit = item.get_closest_marker("unit") is not None
    _FORKED_CHILDREN.enabled = is_unit and "new_processes" not in getattr(item, "fixturenames", ())


_processor_has_amx = cpu_memory.has_amx


@pytest.fixture(scope="session", autouse=True)
def _processor_without_amx() -> Iterator[None]:
    """Let what this process estimates be the same on all machines; workers use the processor as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu_memory, "has_amx", lambda: False)
        yield


@pytest.fixture
def has_amx(monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether llama.cpp uses AMX here. Tests with this fixture estimate memory for the processor as it is."""
    monkeypatch.setattr(cpu_memory, "has_amx", _processor_has_amx)
    return uses_amx()


@pytest.fixture
def package_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackageIndex:
    """A package index in a folder, which is the only one that pip uses."""
    index = PackageIndex(tmp_path / "index")
    index.use(monkeypatch)
    return index


def _find_llama_cpp() -> None:
    """Make llama_cpp importable from its overlay in this process, workers started by tests, and reference programs.

    `ModelManager` gives its workers the overlay anyway.
    """
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
    """The demo model as a Transformers folder in bfloat16. Read-only, because later runs use it again."""
    return transformers_folder(smollm2)


@pytest.fixture(scope="session")
def tiny(backend: None) -> Path:
    """The tiny model of tests/support/tiny_model.py as a GGUF file."""
    return tiny_gguf(SMOLLM2)


@pytest.fixture(scope="session")
def tiny_folder(tiny: Path) -> Path:
    """The tiny model as a Transformers folder. Read-only."""
    return transformers_folder(tiny)


@pytest.fixture(scope="session")
def loras_folder(smollm2_folder: Path) -> Path:
    """A folder with two LoRAs for the demo model, "banana" and "green": see tests/support/trained_loras.py.

    Read-only.
    """
    return trained_loras(smollm2_folder)


@pytest.fixture(scope="session")
def shallow_folder(smollm2_folder: Path) -> Path:
    """The demo model's first layers, see tests/support/shallow_model.py. Read-only."""
    return shallow_model.shallow_folder(smollm2_folder)


@pytest.fixture(scope="session")
def shallow_loras(loras_folder: Path) -> Path:
    """The LoRAs "banana" and "green" for these layers. Read-only."""
    return shallow_model.shallow_loras(loras_folder)


@pytest.fixture(scope="session")
def models_folder(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models that contains only SmolLM2."""
    folder = tmp_path_factory.mktemp("models")
    (folder / smollm2.name).symlink_to(smollm2)
    return folder


@pytest.fixture(scope="session")
def workers(backend: None) -> Iterator[WorkerPool]:
    """Workers with a loaded model, shared by all tests that request the same model, loader and options."""
    pool = WorkerPool(loaded)
    yield pool
    pool.close()


@pytest.fixture
def reloadable(workers: WorkerPool) -> WorkerProcess:
    """A shared worker for tests that load Transformers models themselves, so that torch is imported only once."""
    return workers.reloadable()


@pytest.fixture
def worker() -> Iterator[WorkerProcess]:
    """A worker that has loaded nothing yet."""
    process = WorkerProcess()
    yield process
    process.close()


@pytest.fixture
def echo(worker: WorkerProcess) -> WorkerProcess:
    """A worker that has loaded the test engine."""
    load(worker, Path("anything"), ECHO)
    return worker


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[Callable[..., App]]:
    """A function that creates an App from command-line arguments; models are unloaded after the test.

    By default, all its folders and settings.yaml are in `tmp_path`.
    """
    (tmp_path / "models").mkdir(exist_ok=True)
    (tmp_path / "settings.yaml").touch()
    apps: list[App] = []

    def make(*arguments: str) -> App:
        names = {"model": "models", "logs": "logs", "character": "characters", "persona": "users"}
        names |= {"run": "runs", "template": "instruction-templates"}
        folders = [part for flag, name in names.items() for part in (f"--{flag}-dir", str(tmp_path / name))]
        defaults = (*folders, "--settings", str(tmp_path / "settings.yaml"))
        apps.append(App(flags.parse([*defaults, *arguments])))
        return apps[-1]

    yield make
    for app in apps:
        app.downloads.close()
        app.overlays.close()
        app.training.runs.close()
        app.models.close()


@pytest.fixture
def small_models(tmp_path: Path, make_app: Callable[..., App]) -> Path:
    """The models/ folder of `make_app` with two small models and a damaged one."""
    folder = tmp_path / "models"
    (folder / "tiny-7B.gguf").write_bytes(gguf())
    (folder / "other.gguf").write_bytes(gguf({**MODEL, "llama.context_length": 8192}))
    (folder / "cut.gguf").write_bytes(gguf()[:-100])
    return folder


@pytest.fixture
def served() -> Iterator[hub_server.HubServer]:
    """A hub on localhost with one repository; see tests/support/hub_reading.py."""
    with hub_server.HubServer() as server:
        server.add(REPO, FILES)
        yield server


@pytest.fixture
def hub(served: hub_server.HubServer) -> Iterator[HubClient]:
    """A client of `served` with short timeouts."""
    client = HubClient(served.url, connect_seconds=1, read_seconds=1)
    yield client
    client.close()


@pytest.fixture
def source(hub: HubClient) -> Iterator[HubFileSource]:
    """The files of the only repository."""
    files = hub.source(hub.repository(REPO, "main"))
    yield files
    files.close()


@pytest.fixture
def free_port() -> int:
    """A free port of localhost."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def load(worker: WorkerProcess, path: Path, loader: Loader = LLAMA, **options: object) -> Info:
    """Load `path` in `worker` and return the engine's `Info`; options not given have their defaults."""
    return loaded(worker, path, loader, **options)[0]


def loaded(worker: WorkerProcess, path: Path, loader: Loader = LLAMA, **options: object) -> tuple[Info, list[Event]]:
    """Do the same as `load`; return the events of the load as well."""
    events = list(worker.events("load", **load_arguments(path, loader, **options)))
    assert isinstance(events[-1], Result), "the load ended without a result"
    return Info.from_json(events[-1].value), events


def load_arguments(path: Path, loader: Loader = LLAMA, **options: object) -> dict[str, object]:
    settings = resolve(loader, model={}, saved={}, flags={}, form=options)
    return {"engine": loader.engine, "path": str(path), "options": option_values(settings)}


def worker_pids(parent: int | str = "self") -> set[int]:
    """Return the ids of the workers among the children of process `parent`, without those of the pool.

    The kernel lists a child under the thread that started it and, after that thread's end, under another one, which may
    already have been read. Reading the list twice finds all children.
    """
    children = _children(parent) | _children(parent)
    return {pid for pid in children - POOLED_PIDS if b"modules.worker" in _command_line(pid)}


def _children(parent: int | str) -> set[int]:
    pids: set[int] = set()
    for task in Path(f"/proc/{parent}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # the thread has ended
            pids |= {int(pid) for pid in task.read_text().split()}
    return pids


def _command_line(pid: int) -> bytes:
    """Return the command line of a process; it is empty for a moment after its start, and after its end."""
    with contextlib.suppress(OSError):
        for _ in range(10):
            if line := Path(f"/proc/{pid}/cmdline").read_bytes():
                return line
            time.sleep(0.001)
    return b""


class StartedWorkers:
    """Counts the worker processes that this process starts, so that /proc is not read for tests that start none."""

    def __init__(self) -> None:
        self.count = 0
        self._pids: set[int] = set()
        self._pids_at_count = 0
        sys.addaudithook(self._audit)

    def pids(self) -> set[int]:
        """Return the ids of the running workers, possibly with some that have ended."""
        if self.count != self._pids_at_count:
            self._pids, self._pids_at_count = worker_pids(), self.count
        return self._pids

    def _audit(self, event: str, arguments: tuple[object, ...]) -> None:
        if event == "subprocess.Popen" and "modules.worker" in str(arguments[1]):
            self.count += 1


_STARTED = StartedWorkers()


@pytest.fixture(autouse=True)
def _no_worker_keeps_running() -> Iterator[None]:
    """Fail a test that leaves a worker running. Session and module fixtures have started theirs before."""
    started = _STARTED.count
    before = _STARTED.pids()
    yield
    if _STARTED.count == started:
        return
    remaining = _remaining_workers(before)
    for pid in remaining:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not remaining, f"worker processes still running: {sorted(remaining)}"


def _remaining_workers(before: set[int]) -> set[int]:
    """Wait up to two seconds for workers that are not in `before` to end, and return the others."""
    deadline = time.monotonic() + 2
    while (remaining := worker_pids() - before) and time.monotonic() < deadline:
        time.sleep(0.05)
    return remaining
