"""Whether the files of a repository would fit in memory: the same verdict as on the Model tab after the download."""

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
def served() -> Iterator[HubServer]:
    with HubServer() as started:
        yield started


@pytest.fixture
def make(make_app: Callable[..., App], served: HubServer) -> Callable[..., App]:
    def made(free: int = 8 << 30, *words: str) -> App:
        app = make_app(*(words or ("--hf-endpoint", served.url)))
        app.memory.available_memory = lambda: free
        app.memory.gpus = app.memory.torch_gpus = tuple
        return app

    return made


def asked(app: App, served: HubServer) -> tuple[dict[str, Verdict], Repository]:
    repository = app.mirrors.repository(app.mirrors.parse_address(REPO))
    served.sent, served.log[:] = 0, []
    return app.download_fit.verdicts(repository), repository


def test_the_verdict_is_that_of_the_model_tab_after_the_download(
    make: Callable[..., App], served: HubServer, smollm2: Path, tmp_path: Path
) -> None:
    served.add(REPO, {smollm2.name: smollm2})
    app = make(300 * MIB)
    told, _ = asked(app, served)
    (tmp_path / "models" / smollm2.name).symlink_to(smollm2)
    plan = app.planner.plan(LoadRequest(app.record(smollm2.name)))
    fit = app.memory.fit(plan)
    assert fit is not None
    (part,) = fit.parts
    expected = Verdict(part.verdict, part.need.total, 300 * MIB, int(plan.settings["n_ctx"].value))
    assert told == {smollm2.name: expected} and expected.context < 8192, "memory has reduced the context"


def test_one_header_of_a_few_mib_is_read_for_all_quantizations(
    make: Callable[..., App], served: HubServer, smollm2: Path, tmp_path: Path
) -> None:
    larger = tmp_path / "larger.gguf"
    larger.write_bytes(smollm2.read_bytes()[: 4 * MIB])
    with larger.open("r+b") as file:
        file.truncate(600 * MIB)
    served.add(REPO, {"m.Q4_1.gguf": smollm2, "m.Q8_0.gguf": larger, "README.md": b"hello"})
    told, _ = asked(make(600 * MIB), served)
    assert {name: each.kind for name, each in told.items()} == {"m.Q4_1.gguf": "fits", "m.Q8_0.gguf": "short"}
    assert told["m.Q8_0.gguf"].need > 600 * MIB
    assert served.sent <= 8 * MIB and len(served.log) <= 6


def test_memory_of_gpus_counts(make: Callable[..., App], served: HubServer, smollm2: Path) -> None:
    served.add(REPO, {"m.Q4_1.gguf": smollm2})
    app = make(8 << 30, "--hf-endpoint", served.url, "--n-gpu-layers", "-1")
    app.memory.gpus = lambda: (Gpu("card", 8 << 30, 8 << 30),)
    told, _ = asked(app, served)
    assert told["m.Q4_1.gguf"].kind == "fits" and told["m.Q4_1.gguf"].free == 16 << 30


def test_the_next_mirror_is_asked_if_the_first_cannot_be_reached(
    make: Callable[..., App], served: HubServer, smollm2: Path, free_port: int
) -> None:
    served.add(REPO, {"m.Q4_1.gguf": smollm2})
    app = make(8 << 30, "--hf-endpoint", f"http://127.0.0.1:{free_port},{served.url}")
    assert asked(app, served)[0]["m.Q4_1.gguf"].kind == "fits"


def test_unreachable_mirrors_and_invalid_headers_are_errors(make: Callable[..., App], served: HubServer) -> None:
    served.add(REPO, {"m.Q4_1.gguf": b"no model at all" * 1000})
    app = make()
    with pytest.raises(ModelProblem):
        asked(app, served)
    repository = app.mirrors.repository(app.mirrors.parse_address(REPO))
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        app.mirrors.choose(f"http://127.0.0.1:{nobody.getsockname()[1]}")
        with pytest.raises(DownloadError):
            app.download_fit.verdicts(repository)


def test_a_model_that_does_not_generate_text_is_unsupported_with_a_reason(
    make: Callable[..., App], served: HubServer
) -> None:
    served.add(REPO, {"m.Q4_1.gguf": gguf({**MODEL, "general.architecture": "flux"})}, lfs_above=0)
    (told,) = asked(make(), served)[0].values()
    assert told.kind == "unsupported" and told.why is not None and "ComfyUI" in told.why["en"]


@pytest.mark.parametrize(("size", "kind"), [(1 * MIB, "fits"), (int(TIGHT * 2 * MIB) + 9, "tight"), (3 * MIB, "short")])
def test_the_size_of_plain_weights_is_compared_with_the_free_memory(
    make: Callable[..., App], served: HubServer, size: int, kind: str
) -> None:
    served.add(REPO, {"model.safetensors": bytes(size), "config.json": b"{}"})
    told, _ = asked(make(2 * MIB), served)
    assert told == {"model.safetensors": Verdict(kind, size, 2 * MIB)}
    assert served.log == [], "nobody is asked for that"


def test_without_weights_or_known_memory_there_is_no_verdict(
    make: Callable[..., App], served: HubServer, smollm2: Path
) -> None:
    served.add(REPO, {"model.safetensors": bytes(20_000), "m.Q4_1.gguf": smollm2})
    assert asked(make(0), served)[0] == {}
    served.add(REPO, {"adapter_config.json": b"{}", "adapter_model.safetensors": bytes(20_000)})
    assert asked(make(), served)[0] == {}
