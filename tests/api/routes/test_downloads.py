"""Downloads over the API: start, list, pause, resume and cancel, and who may do so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from tests.support import hub_server
from tests.support.downloading import noise, until
from tests.support.gguf_files import MODEL, gguf
from tests.support.hub_reading import FILES, REPO
from tests.support.serving import Server, server_of

PLACE = "/internal/download"
GGUF = noise(300_000)


@pytest.fixture
def app(make_app: Callable[..., App], served: hub_server.HubServer, tmp_path: Path) -> App:
    """An app that downloads from `served`, which also offers several GGUF files."""
    served.add("some/ggufs", {"a.Q4_K_M.gguf": GGUF, "a.Q8_0.gguf": GGUF + b"more", "README.md": b"# a"})
    return make_app("--hf-endpoint", served.url, "--lora-dir", str(tmp_path / "loras"))


@pytest.fixture
def server(app: App) -> Iterator[Server]:
    with server_of(app) as running:
        yield running


def stands(server: Server, job: str) -> Any:
    (found,) = [each for each in server.http.get(PLACE).json()["downloads"] if each["id"] == job]
    return found


def ends(server: Server, job: str, state: str) -> Any:
    until(lambda: stands(server, job)["state"] == state)
    return stands(server, job)


def test_a_named_file_is_downloaded_and_can_be_loaded(server: Server, tmp_path: Path) -> None:
    begun = server.post(PLACE, {"repo": "some/ggufs", "files": ["a.Q4_K_M.gguf"]})
    assert begun.status_code == 200 and begun.json()["repo"] == "some/ggufs"
    told = ends(server, begun.json()["id"], "done")
    assert (told["done"], told["total"], told["error"]) == (len(GGUF), len(GGUF), None)
    assert (tmp_path / "models" / "a.Q4_K_M.gguf").read_bytes() == GGUF
    assert server.http.get("/internal/model/list").json() == {"model_names": ["a.Q4_K_M.gguf"]}


def test_without_names_the_preselected_files_are_downloaded(server: Server, tmp_path: Path) -> None:
    job = server.post(PLACE, {"url": f"https://huggingface.co/{REPO}/tree/main"}).json()["id"]
    told = ends(server, job, "done")
    assert set(told["files"]) == {"config.json", "empty.txt"} and set(told["files"]) < set(FILES)
    assert (tmp_path / "models" / "user_model" / "config.json").read_bytes() == FILES["config.json"]


def test_a_gguf_adapter_goes_to_the_folder_of_loras(
    server: Server, served: hub_server.HubServer, tmp_path: Path
) -> None:
    served.add("some/cat", {"cat.gguf": gguf({**MODEL, "general.type": "adapter", "adapter.type": "lora"})})
    job = server.post(PLACE, {"repo": "some/cat", "files": ["cat.gguf"]}).json()["id"]
    assert ends(server, job, "done")["kind"] == "lora" and (tmp_path / "loras" / "cat.gguf").exists()


def test_the_file_of_a_link_and_the_requested_kind_are_used(server: Server, tmp_path: Path) -> None:
    link = f"https://hf-mirror.com/{REPO}/blob/main/config.json"
    ends(server, server.post(PLACE, {"repo": link, "kind": "lora"}).json()["id"], "done")
    assert (tmp_path / "loras" / "user_model" / "config.json").exists()


def test_a_download_is_paused_resumed_and_cancelled(
    server: Server, served: hub_server.HubServer, tmp_path: Path
) -> None:
    served.fault("a.Q8_0.gguf", origin="cdn", rate=200_000)
    served.fault("a.Q8_0.gguf", origin="hub", method="GET", rate=200_000)
    job = server.post(PLACE, {"repo": "some/ggufs:main", "files": ["a.Q8_0.gguf"]}).json()["id"]
    until(lambda: stands(server, job)["done"] > 0)
    server.post(f"{PLACE}/pause", {"id": job})
    kept = ends(server, job, "paused")["done"]
    assert 0 < kept < len(GGUF)
    assert server.post(f"{PLACE}/resume", {"id": job}).status_code == 200
    until(lambda: stands(server, job)["done"] > kept)
    server.post(f"{PLACE}/cancel", {"id": job})
    ends(server, job, "cancelled")
    assert list((tmp_path / "models").glob("*.gguf")) == []


def test_invalid_requests_are_refused_with_a_message(server: Server, served: hub_server.HubServer) -> None:
    assert server.refusal(PLACE, {"repo": "nonsense"})["status"] == 400
    assert server.refusal(PLACE, {})["param"] == "repo"
    assert server.refusal(PLACE, {"repo": "no/body"})["status"] == 404
    assert server.refusal(PLACE, {"repo": "some/ggufs"})["status"] == 400  # a GGUF is the user's to choose
    assert server.refusal(PLACE, {"repo": "some/ggufs", "files": ["b.gguf"]})["status"] == 404
    assert "main" in server.refusal(PLACE, {"repo": "some/ggufs", "revision": "other"})["message"]
    assert server.refusal(PLACE, {"repo": "some/ggufs", "kind": "dataset"})["param"] == "kind"
    assert server.refusal(f"{PLACE}/pause", {"id": "none"})["status"] == 404


def test_guests_can_neither_start_nor_see_downloads(make_app: Callable[..., App], served: hub_server.HubServer) -> None:
    with server_of(make_app("--multi-user", "--hf-endpoint", served.url)) as running:
        assert running.post(PLACE, {"repo": REPO}).status_code == 403
        assert running.http.get(PLACE).status_code == 403
        assert running.post(f"{PLACE}/cancel", {"id": "any"}).status_code == 403
    assert served.log == []
