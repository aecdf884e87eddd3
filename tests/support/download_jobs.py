"""A program that downloads, the repository that it downloads, and helpers that look at its jobs."""

from __future__ import annotations

from pathlib import Path

from modules.downloads.context import MIB, TransferOptions
from modules.downloads.manager import DownloadManager
from modules.downloads.record import DownloadSpec
from modules.downloads.view import JobView
from modules.hub.access_token import AccessToken
from modules.hub.client import HubClient
from tests.support.downloading import HASTY, REPO, noise, until

FILES = {
    "config.json": b'{"a": 1}',
    "model-00001-of-00002.safetensors": noise(6 * MIB, 1),
    "model-00002-of-00002.safetensors": noise(3 * MIB, 2),
    "onnx/readme.md": noise(2000, 3),
}
TOTAL = sum(map(len, FILES.values()))
FIRST_SHARD, SECOND_SHARD = "model-00001", "model-00002"
SPEC = DownloadSpec(REPO, "main", "somebody_something")


class Program:
    """Creates managers of the same folders, as repeated starts of the program do."""

    def __init__(self, folder: Path, endpoints: list[str]) -> None:
        self.models, self.loras = folder / "models", folder / "loras"
        self.endpoints = endpoints
        self.running: list[DownloadManager] = []

    def start(
        self, options: TransferOptions = HASTY, reserve: int = 0, max_running: int = 1, token: AccessToken | None = None
    ) -> DownloadManager:
        manager = DownloadManager(
            {"model": self.models, "lora": self.loras},
            lambda: [HubClient(endpoint, token) for endpoint in self.endpoints],
            options,
            max_running,
            reserve,
        )
        self.running.append(manager)
        return manager


def view(downloads: DownloadManager, job: str = "") -> JobView:
    """Return the view of a job; without an id, of the only job."""
    views = [view for view in downloads.snapshot() if view.id == job or not job]
    assert len(views) == 1
    return views[0]


def wait_until_ended(downloads: DownloadManager, job: str = "", seconds: float = 20) -> JobView:
    until(lambda: view(downloads, job).state in ("done", "failed", "paused", "cancelled"), seconds)
    return view(downloads, job)


def read_files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "huggingface-metadata.txt"
    }


def download_to_end(downloads: DownloadManager, spec: DownloadSpec = SPEC) -> JobView:
    return wait_until_ended(downloads, downloads.start(spec))
