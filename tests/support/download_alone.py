"""Download a repository in a process that a test can kill: download_alone.py FOLDER ENDPOINT

It starts or resumes the download and prints its progress ten times a second until it is done.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from modules.downloads.manager import DownloadManager
from modules.downloads.record import DownloadSpec
from modules.hub.client import HubClient
from tests.support.downloading import REPO, SPLIT


def main(folder: Path, endpoint: str) -> None:
    folders = {"model": folder / "models", "lora": folder / "loras"}
    downloads = DownloadManager(folders, lambda: [HubClient(endpoint)], SPLIT, reserve=0)  # type: ignore[arg-type]
    downloads.start(DownloadSpec(REPO, "main", "something"))
    while True:
        (view,) = downloads.snapshot()
        print(view.state, view.elsewhere, view.done, flush=True)
        if view.state in ("done", "failed") or view.elsewhere:
            return
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
