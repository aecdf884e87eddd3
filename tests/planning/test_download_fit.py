"""Predict whether the files of a repository fit in memory, as the Model page shows it after the download."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.app import App
from modules.core.errors import ModelProblem
from modules.hub.errors import DownloadError
from modules.hub.repository import Repository
from modules.planning.download_fit import Verdict
from modules.planning.fit import TIGHT
from modules.planning.load_request import LoadRequest
from modules.system.gpus import Gpu
from tests.support.gguf_files import MODEL, gguf
from tests.support.hub_server import HubServer

REPO = "user/model"
MIB = 1 << 20


@pytest.fixture
def server() -> Iterator[HubServer]:
    """Start a hub without repositories."""
    with HubServer() as server:
        yield server


@pytest.fixture
def make_app_with_memory(make_app: Callable[..., App], server: HubServer) -> Callable[..., App]:
    """Make an App on a machine without GPUs, given its free memory and optionally its command line."""

    def make_with_memory(free: int = 8 << 30, *arguments: str) -> App:
        app = make_app(*(arguments or ("--hf-endpoint", server.url)))
        app.memory.available_memory = lambda: free
        app.memory.gpus = app.memory.torch_gpus = tuple
        return app

    return make_with_memory


def fetch_verdicts(app: App, server: HubServer) -> tuple[dict[str, Verdict], Repository]:
    """Return the verdicts on the files of REPO. The server then counts only the requests made for the verdicts."""
    repository = app.mirrors.repository(app.mirrors.parse_address(REPO))
    server.sent, server.log[:] = 0, []
    return app.download_fit.verdicts(repository), repository


def test_the_verdict_is_that_of_the_model_tab_after_the_download(
    make_app_with_memory: Callable[..., App], server: HubServer, smollm2: Path, tmp_path: Path
) -> None:
    server.add(REPO, {smollm2.name: smollm2})
    app = make_app_with_memory(300 * MIB)
    verdicts, _ = fetch_verdicts(app, server)
    (tmp_path / "models" / smollm2.name).symlink_to(smollm2)
    plan = app.planner.plan(LoadRequest(app.record(smollm2.name)))
    fit = app.memory.fit(plan)
    assert fit is not None
    (part,) = fit.parts
    expected = Verdict(part.verdict, part.need.total, 300 * MIB, int(plan.settings["n_ctx"].value))
    assert verdicts == {smollm2.name: expected} and expected.context < 8192, "memory has reduced the context"


def test_one_header_of_a_few_mib_is_read_for_all_quantizations(
    make_app_with_memory: Callable[..., App], server: HubServer, smollm2: Path, tmp_path: Path
) -> None:
    larger = tmp_path / "larger.gguf"
    larger.write_bytes(smollm2.read_bytes()[: 4 * MIB])
    with larger.open("r+b") as file:
        file.truncate(600 * MIB)
    server.add(REPO, {"m.Q4_1.gguf": smollm2, "m.Q8_0.gguf": larger, "README.md": b"hello"})
    verdicts, _ = fetch_verdicts(make_app_with_memory(600 * MIB), server)
    assert {name: verdict.kind for name, verdict in verdicts.items()} == {"m.Q4_1.gguf": "fits", "m.Q8_0.gguf": "short"}
    assert verdicts["m.Q8_0.gguf"].need > 600 * MIB
    assert server.sent <= 8 * MIB and len(server.log) <= 6


def test_gpu_memory_counts_as_free_memory(
    make_app_with_memory: Callable[..., App], server: HubServer, smollm2: Path
) -> None:
    server.add(REPO, {"m.Q4_1.gguf": smollm2})
    app = make_app_with_memory(8 << 30, "--hf-endpoint", server.url, "--n-gpu-layers", "-1")
    app.memory.gpus = lambda: (Gpu("card", 8 << 30, 8 << 30),)
    verdicts, _ = fetch_verdicts(app, server)
    assert verdicts["m.Q4_1.gguf"].kind == "fits" and verdicts["m.Q4_1.gguf"].free == 16 << 30


def test_the_next_mirror_is_used_if_the_first_cannot_be_reached(
    make_app_with_memory: Callable[..., App], server: HubServer, smollm2: Path, free_port: int
) -> None:
    server.add(REPO, {"m.Q4_1.gguf": smollm2})
    app = make_app_with_memory(8 << 30, "--hf-endpoint", f"http://127.0.0.1:{free_port},{server.url}")
    assert fetch_verdicts(app, server)[0]["m.Q4_1.gguf"].kind == "fits"


def test_unreachable_mirrors_and_invalid_headers_raise_errors(
    make_app_with_memory: Callable[..., App], server: HubServer
) -> None:
    server.add(REPO, {"m.Q4_1.gguf": b"not a model" * 1000})
    app = make_app_with_memory()
    with pytest.raises(ModelProblem):
        fetch_verdicts(app, server)
    repository = app.mirrors.repository(app.mirrors.parse_address(REPO))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        app.mirrors.choose(f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(DownloadError):
            app.download_fit.verdicts(repository)


def test_a_model_that_does_not_generate_text_is_unsupported_with_a_reason(
    make_app_with_memory: Callable[..., App], server: HubServer
) -> None:
    server.add(REPO, {"m.Q4_1.gguf": gguf({**MODEL, "general.architecture": "flux"})}, lfs_above=0)
    (verdict,) = fetch_verdicts(make_app_with_memory(), server)[0].values()
    assert verdict.kind == "unsupported" and verdict.why is not None and "ComfyUI" in verdict.why["en"]


@pytest.mark.parametrize(("size", "kind"), [(1 * MIB, "fits"), (int(TIGHT * 2 * MIB) + 9, "tight"), (3 * MIB, "short")])
def test_the_size_of_plain_weights_is_compared_with_the_free_memory(
    make_app_with_memory: Callable[..., App], server: HubServer, size: int, kind: str
) -> None:
    server.add(REPO, {"model.safetensors": bytes(size), "config.json": b"{}"})
    verdicts, _ = fetch_verdicts(make_app_with_memory(2 * MIB), server)
    assert verdicts == {"model.safetensors": Verdict(kind, size, 2 * MIB)}
    assert server.log == [], "the file list already has the size"


def test_without_weights_or_known_memory_there_is_no_verdict(
    make_app_with_memory: Callable[..., App], server: HubServer, smollm2: Path
) -> None:
    server.add(REPO, {"model.safetensors": bytes(20_000), "m.Q4_1.gguf": smollm2})
    assert fetch_verdicts(make_app_with_memory(0), server)[0] == {}
    server.add(REPO, {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(20_000)})
    assert fetch_verdicts(make_app_with_memory(), server)[0] == {}


def test_a_model_that_the_flags_rule_out_has_no_verdict(
    make_app_with_memory: Callable[..., App], server: HubServer
) -> None:
    server.add(REPO, {"m.Q4_1.gguf": gguf()})
    app = make_app_with_memory(8 << 30, "--hf-endpoint", server.url, "--loader", "ExLlamav2")
    assert fetch_verdicts(app, server)[0] == {}


def test_there_is_no_room_for_weights_where_the_free_memory_is_unknown(
    make_app_with_memory: Callable[..., App],
) -> None:
    assert make_app_with_memory(0).memory.room_for_weights() == 0
    app = make_app_with_memory(5 << 30)
    app.memory.torch_gpus = lambda: (Gpu("card", 2 << 30, 1 << 30),)
    assert app.memory.room_for_weights() == 6 << 30
