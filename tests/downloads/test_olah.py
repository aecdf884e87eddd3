"""Download from olah, a third-party mirror, as a cache of another hub and with its own git repositories.

python -m venv /tmp/olah && /tmp/olah/bin/pip install olah==0.5.4
OLAH_CLI=/tmp/olah/bin/olah-cli pytest tests/downloads/test_olah.py
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.downloads.manager import DownloadManager
from modules.downloads.request import Selection
from modules.downloads.view import JobView
from modules.hub.mirrors import Mirrors
from tests.support.downloading import SPLIT, noise, until
from tests.support.hub_server import Content, HubServer

OLAH = os.environ.get("OLAH_CLI", "")
pytestmark = pytest.mark.skipif(not OLAH, reason="OLAH_CLI does not name an olah-cli")

REPO = "user/model"
FILES: dict[str, Content] = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": noise(50_000, 1),
    "model.safetensors": noise(24_000_000),
    "parts/more.safetensors": noise(3_000_000, 2),
}


@pytest.fixture
def start(tmp_path: Path, free_port: int) -> Iterator[Callable[..., str]]:
    """Start olah with additional configuration lines and return its address."""
    with contextlib.ExitStack() as stack:

        def start_olah(*lines: str) -> str:
            config = tmp_path / "olah.toml"
            basic = ["[basic]", 'host = "127.0.0.1"', f"port = {free_port}", f'repos-path = "{tmp_path / "cache"}"']
            config.write_text("\n".join([*basic, *lines]))
            command = [OLAH, "--config", str(config), "--log-path", str(tmp_path / "logs")]
            with (tmp_path / "olah.log").open("wb") as log:
                process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
            stack.callback(process.wait, 20)
            stack.callback(process.terminate)
            until(lambda: _accepts_connections(free_port), 60)
            return f"http://127.0.0.1:{free_port}"

        yield start_olah


def _accepts_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        time.sleep(0.1)
        return False
    return True


def download_repository(url: str, folder: Path) -> JobView:
    mirrors = Mirrors(url, lambda: "")
    repository = mirrors.repository(mirrors.parse_address(REPO))
    downloads = DownloadManager({"model": folder, "lora": folder}, mirrors.open_clients, SPLIT, reserve=0)
    try:
        downloads.start(Selection(repository, repository.files).spec)
        until(lambda: downloads.snapshot()[0].state in ("done", "failed"), 60)
        return downloads.snapshot()[0]
    finally:
        downloads.close()


def has_all_files(view: JobView) -> bool:
    assert view.error is None
    return all((view.folder / path).read_bytes() == content for path, content in FILES.items())


def test_olah_as_a_cache_of_another_hub_delivers_the_files(start: Callable[..., str], tmp_path: Path) -> None:
    with HubServer() as hub:
        hub.add(REPO, FILES)
        upstream = hub.origin.removeprefix("http://")
        url = start(
            'hf-scheme = "http"',
            f'hf-netloc = "{upstream}"',
            f'hf-lfs-netloc = "{hub.cdn.removeprefix("http://")}"',
        )
        assert has_all_files(download_repository(url, tmp_path / "first"))
        sent_before = hub.sent
        assert has_all_files(download_repository(url, tmp_path / "second"))
        assert hub.sent - sent_before < 1_000_000, "the files come from olah's cache"


def test_olah_with_its_own_git_repository_delivers_the_files(start: Callable[..., str], tmp_path: Path) -> None:
    git_folder = tmp_path / "mirror" / "models" / REPO
    for path, content in FILES.items():
        assert isinstance(content, bytes)
        (git_folder / path).parent.mkdir(parents=True, exist_ok=True)
        (git_folder / path).write_bytes(content)
    for arguments in (["init", "-qb", "main"], ["add", "."], ["commit", "-qm", "all"]):
        identity = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
        subprocess.run(["git", *identity, *arguments], cwd=git_folder, check=True)
    url = start(f'mirrors-path = ["{tmp_path / "mirror"}"]', "[accessibility]", "offline = true")
    assert has_all_files(download_repository(url, tmp_path / "models"))
