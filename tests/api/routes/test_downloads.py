"""Downloads over the API: starting, listing, pausing, resuming and cancelling them; guests' permissions."""

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

ENDPOINT = "/internal/download"
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


def find_job(server: Server, job_id: str) -> Any:
    (job,) = [job for job in server.http.get(ENDPOINT).json()["downloads"] if job["id"] == job_id]
    return job


def wait_for_state(server: Server, job_id: str, state: str) -> Any:
    until(lambda: find_job(server, job_id)["state"] == state)
    return find_job(server, job_id)


def test_a_named_file_is_downloaded_and_can_be_loaded(server: Server, tmp_path: Path) -> None:
    response = server.post(ENDPOINT, {"repo": "some/ggufs", "files": ["a.Q4_K_M.gguf"]})
    assert response.status_code == 200 and response.json()["repo"] == "some/ggufs"
    job = wait_for_state(server, response.json()["id"], "done")
    assert (job["done"], job["total"], job["error"]) == (len(GGUF), len(GGUF), None)
    assert (tmp_path / "models" / "a.Q4_K_M.gguf").read_bytes() == GGUF
    assert server.http.get("/internal/model/list").json() == {"model_names": ["a.Q4_K_M.gguf"]}


def test_without_file_names_the_preselected_files_are_downloaded(server: Server, tmp_path: Path) -> None:
    job_id = server.post(ENDPOINT, {"url": f"https://huggingface.co/{REPO}/tree/main"}).json()["id"]
    job = wait_for_state(server, job_id, "done")
    assert set(job["files"]) == {"config.json", "empty.txt"} and set(job["files"]) < set(FILES)
    assert (tmp_path / "models" / "user_model" / "config.json").read_bytes() == FILES["config.json"]


def test_without_file_names_the_gguf_file_is_downloaded_that_the_page_would_select(server: Server) -> None:
    job_id = server.post(ENDPOINT, {"repo": "some/ggufs"}).json()["id"]
    assert wait_for_state(server, job_id, "done")["files"] == ["a.Q4_K_M.gguf"]


def test_a_gguf_adapter_is_saved_in_the_lora_folder(
    server: Server, served: hub_server.HubServer, tmp_path: Path
) -> None:
    served.add("some/cat", {"cat.gguf": gguf({**MODEL, "general.type": "adapter", "adapter.type": "lora"})})
    job_id = server.post(ENDPOINT, {"repo": "some/cat", "files": ["cat.gguf"]}).json()["id"]
    assert wait_for_state(server, job_id, "done")["kind"] == "lora" and (tmp_path / "loras" / "cat.gguf").exists()


def test_a_link_selects_its_file_and_the_requested_kind_its_folder(server: Server, tmp_path: Path) -> None:
    link = f"https://hf-mirror.com/{REPO}/blob/main/config.json"
    wait_for_state(server, server.post(ENDPOINT, {"repo": link, "kind": "lora"}).json()["id"], "done")
    assert (tmp_path / "loras" / "user_model" / "config.json").exists()


@pytest.mark.parametrize("repo", ["{}", "{}:main", "https://huggingface.co/{}/tree/main"])
def test_the_revision_takes_the_place_of_that_of_the_repository(
    server: Server, served: hub_server.HubServer, repo: str
) -> None:
    served.add(REPO, {"config.json": b"{}"}, "dev")
    job = server.post(ENDPOINT, {"repo": repo.format(REPO), "revision": "dev"}).json()
    assert (job["revision"], job["files"]) == ("dev", ["config.json"])


def test_a_download_is_paused_resumed_and_cancelled(
    server: Server, served: hub_server.HubServer, tmp_path: Path
) -> None:
    served.fault("a.Q8_0.gguf", origin="cdn", rate=200_000, skip=1)  # not when its header is read, before the job
    served.fault("a.Q8_0.gguf", origin="hub", method="GET", rate=200_000)
    job_id = server.post(ENDPOINT, {"repo": "some/ggufs:main", "files": ["a.Q8_0.gguf"]}).json()["id"]
    until(lambda: find_job(server, job_id)["done"] > 0)
    server.post(f"{ENDPOINT}/pause", {"id": job_id})
    received = wait_for_state(server, job_id, "paused")["done"]
    assert 0 < received < len(GGUF)
    assert server.post(f"{ENDPOINT}/resume", {"id": job_id}).status_code == 200
    until(lambda: find_job(server, job_id)["done"] > received)
    server.post(f"{ENDPOINT}/cancel", {"id": job_id})
    wait_for_state(server, job_id, "cancelled")
    assert list((tmp_path / "models").glob("*.gguf")) == []


def test_invalid_requests_are_refused_with_a_message(server: Server, served: hub_server.HubServer) -> None:
    assert server.refusal(ENDPOINT, {"repo": "nonsense"})["status"] == 400
    assert server.refusal(ENDPOINT, {})["param"] == "repo"
    assert server.refusal(ENDPOINT, {"repo": "no/body"})["status"] == 404
    served.add("some/alike", {"a.gguf": GGUF, "b.gguf": GGUF + b"more"})
    assert server.refusal(ENDPOINT, {"repo": "some/alike"})["status"] == 400  # the user has to choose a GGUF file
    assert server.refusal(ENDPOINT, {"repo": "some/ggufs", "files": ["b.gguf"]})["status"] == 404
    assert "main" in server.refusal(ENDPOINT, {"repo": "some/ggufs", "revision": "other"})["message"]
    assert server.refusal(ENDPOINT, {"repo": "some/ggufs", "kind": "dataset"})["param"] == "kind"
    assert server.refusal(f"{ENDPOINT}/pause", {"id": "none"})["status"] == 404


def test_guests_can_neither_start_nor_see_downloads(make_app: Callable[..., App], served: hub_server.HubServer) -> None:
    with server_of(make_app("--multi-user", "--hf-endpoint", served.url)) as running:
        assert running.post(ENDPOINT, {"repo": REPO}).status_code == 403
        assert running.http.get(ENDPOINT).status_code == 403
        assert running.post(f"{ENDPOINT}/cancel", {"id": "any"}).status_code == 403
    assert served.log == []
