"""An environment of its own for each client, because their packages need other versions than ours."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from report import MODEL, ROOT

_EMBEDDING_MODEL = "from tests.support.tiny_bert import tiny_berts; print(tiny_berts() / 'tiny-mean.gguf')"
EMBEDDING_MODEL = "tiny-mean.gguf"


def run_in_environment(client: str, *packages: str) -> None:
    """Continue this script in the environment `venv-CLIENT`, which is made at the first run.

    It lies in the folder that the variable CLIENT_ENVIRONMENTS names, else in the one for temporary files.
    """
    folder = Path(os.environ.get("CLIENT_ENVIRONMENTS") or tempfile.gettempdir()) / f"venv-{client}"
    python = folder / "bin" / "python"
    if Path(sys.prefix) == folder:
        return
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
    os.execv(python, [str(python), *sys.argv])


def add_models_folder(arguments: Sequence[str]) -> list[str]:
    """Return arguments of `client_run` for a server with the chat model and a tiny embedding model.

    They stay as they are if they name a model or a server themselves.
    """
    if any(argument.partition("=")[0] in ("--url", "--model", "--help", "-h") for argument in arguments):
        return list(arguments)
    done = subprocess.run(
        [str(ROOT / ".venv/bin/python"), "-c", _EMBEDDING_MODEL], cwd=ROOT, check=True, capture_output=True, text=True
    )
    folder = Path(tempfile.mkdtemp(prefix="client-models-"))
    for model in (MODEL, Path(done.stdout.splitlines()[-1])):
        (folder / model.name).symlink_to(model.resolve())
    return [*arguments, "--model", str(folder / MODEL.name)]
