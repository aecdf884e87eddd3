"""What many tests share: the demo model, workers that are closed again, and a watch over what a test leaves behind."""

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

from modules import flags
from modules.app import App
from modules.events import Info, Result
from modules.hub import Hub
from modules.hub_files import HubSource
from modules.loaders import LOADERS, Loader, overlay_of, settle, values
from modules.process import ROOT, WorkerProcess
from tests import hub_server
from tests.hf_folder import transformers_folder
from tests.hub_reading import FILES, REPO
from tests.trained_loras import trained_loras

SMOLLM2 = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
LLAMA, TRANSFORMERS = LOADERS["llama.cpp"], LOADERS["Transformers"]
ECHO = dataclasses.replace(LLAMA, name="echo", engine="tests.echo:Echo", packages=())
"""A row of the table for the tests' own engine."""

PATIENCE_SECONDS = 120


def _find_llama_cpp() -> None:
    """Let this process, the workers that tests start themselves, and reference programs find llama_cpp where the
    program installs it; `Models` gives its workers the overlay anyway."""
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
def loras_folder(smollm2_folder: Path) -> Path:
    """A folder with two LoRAs for the demo model, "banana" and "green": see tests/trained_loras.py. Not to be written
    to either."""
    return trained_loras(smollm2_folder)


@pytest.fixture(scope="session")
def models_folder(smollm2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of models that holds SmolLM2 alone."""
    folder = tmp_path_factory.mktemp("models")
    (folder / smollm2.name).symlink_to(smollm2)
    return folder


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
        made.append(App(flags.read([*own, *words])))
        return made[-1]

    yield make
    for app in made:
        app.downloads.close()
        app.overlays.close()
        app.models.unload()


@pytest.fixture
def served() -> Iterator[hub_server.Hub]:
    """A hub on localhost with one repository; see tests/hub_reading.py."""
    with hub_server.Hub() as started:
        started.add(REPO, FILES)
        yield started


@pytest.fixture
def hub(served: hub_server.Hub) -> Iterator[Hub]:
    """Our end of `served`, with little patience."""
    asked = Hub(served.url, connect_seconds=1, read_seconds=1)
    yield asked
    asked.close()


@pytest.fixture
def source(hub: Hub) -> Iterator[HubSource]:
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
    """Have `worker` load `path`, the options not named at their defaults; what the engine tells of the model."""
    for event in worker.events("load", **load_arguments(path, loader, **options)):
        if isinstance(event, Result):
            return Info.from_json(event.value)
    raise AssertionError("a load ended without a result")


def load_arguments(path: Path, loader: Loader = LLAMA, **options: object) -> dict[str, object]:
    settings = settle(loader, model={}, saved={}, flags={}, form=options)
    return {"engine": loader.engine, "path": str(path), "options": values(settings)}


def worker_pids(parent: int | str = "self") -> set[int]:
    """The workers among the children of process `parent`.

    A child belongs to the thread that started it and, once that has ended, to another, which may have been read before:
    whoever reads twice misses none.
    """
    children = _children(parent) | _children(parent)
    return {pid for pid in children if b"modules.worker" in _command_line(pid)}


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


@pytest.fixture(autouse=True)
def _no_worker_is_left_behind() -> Iterator[None]:
    """Fails a test whose workers outlive it. Those of fixtures that live longer were there before it began."""
    before = worker_pids()
    yield
    left = _once_settled(before)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert not left, f"left behind: worker processes {sorted(left)}"


def _once_settled(before: set[int]) -> set[int]:
    until = time.monotonic() + 2
    while (left := worker_pids() - before) and time.monotonic() < until:
        time.sleep(0.05)
    return left


@pytest.fixture(autouse=True)
def _no_test_waits_for_ever(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that hangs fails with the line it hangs at; those marked slow look after themselves."""
    if request.node.get_closest_marker("slow"):
        yield
        return

    def give_up(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"the test took more than {PATIENCE_SECONDS} s")

    usual = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(PATIENCE_SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, usual)
