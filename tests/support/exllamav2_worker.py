"""Workers in which ExLlamaV2's own Python code runs with stand-ins for its compiled extension and flash-attention."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modules.core.paths import ROOT
from modules.loaders.registry import LOADERS
from modules.runtime.worker_process import WorkerProcess

EXLLAMAV2, EXLLAMAV2_HF = LOADERS["ExLlamav2"], LOADERS["ExLlamav2_HF"]
STANDIN, FLASH = (
    ROOT / "tests" / "support" / "exllamav2_standin",
    ROOT / "tests" / "support" / "exllamav2_standin_flash",
)


def pythonpath(flash: bool = False) -> str:
    """Return the PYTHONPATH of the stand-ins. Processes other than workers need the overlay, too."""
    return os.pathsep.join(map(str, (STANDIN, FLASH) if flash else (STANDIN,)))


def overlay() -> Path:
    """Return the folder of the package itself, without stand-ins."""
    assert EXLLAMAV2.overlay is not None
    if not EXLLAMAV2.overlay.is_installed:
        pytest.fail(f"{EXLLAMAV2.overlay.folder} is missing: run ./test.sh once", pytrace=False)
    return EXLLAMAV2.overlay.folder


def flash_worker() -> WorkerProcess:
    """Start a worker with flash-attention. The worker pool uses this function as a key."""
    return exllamav2_worker(flash=True)


def exllamav2_worker(flash: bool = False) -> WorkerProcess:
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = pythonpath(flash)
    try:
        return WorkerProcess(overlay())
    finally:
        del os.environ["PYTHONPATH"]
        if before is not None:
            os.environ["PYTHONPATH"] = before
