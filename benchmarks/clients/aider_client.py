"""Let aider edit a file through our API, streamed and whole.

aider-chat pins a hundred packages, so it lives in an environment of its own, which is made on the first run:

    .venv/bin/python benchmarks/clients/aider_client.py --environment /tmp/aider

A model of 135M parameters writes no usable edits. The checks are that aider takes the answers for answers: it counts
their tokens, writes them into its history, and ends without an error.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from report import Run, client_run, expect

PACKAGE = "aider-chat==0.86.2"
TASK = "Change the greeting to Bonjour."
FILE = 'def greet() -> None:\n    print("Hello")\n'
ERRORS = ("litellm.", "Traceback", "Error:")


def main() -> None:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--environment", type=Path, default=Path(tempfile.gettempdir()) / "aider-environment")
    args, sys.argv[1:] = parser.parse_known_args()
    aider = _installed(args.environment)
    with client_run(__doc__, ()) as run:
        print(_run(aider, Path.cwd(), "--version").strip())
        for stream in ("--stream", "--no-stream"):
            run.check(f"edit {stream}", partial(_edit, run, aider, stream))


def _installed(environment: Path) -> Path:
    """Return the program of aider in an environment of its own, which is made if it does not exist."""
    aider = environment / "bin" / "aider"
    if not aider.exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        subprocess.run([str(environment / "bin" / "pip"), "install", "--quiet", PACKAGE], check=True)
    return aider


def _edit(run: Run, aider: Path, stream: str) -> str:
    """Ask for an edit of a file in a folder of its own; return aider's line about tokens."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "greeting.py").write_text(FILE)
        said = _run(aider, folder, *_flags(run, stream), "--message", TASK, "greeting.py")
        history = (folder / ".aider.chat.history.md").read_text()
    expect(not any(error in said for error in ERRORS), said[-500:])
    expect("Tokens:" in said, said[-500:])
    expect(TASK in history, history[-500:])
    return next(line for line in said.splitlines() if line.startswith("Tokens:"))


def _flags(run: Run, stream: str) -> list[str]:
    fixed = ["--no-git", "--yes-always", "--no-check-update", "--analytics-disable", "--no-show-model-warnings"]
    fixed += ["--no-pretty", "--no-fancy-input", "--no-show-release-notes", "--map-tokens", "0", "--timeout", "120"]
    server = ["--model", f"openai/{run.model}", "--openai-api-base", f"{run.url}/v1", "--openai-api-key", "none"]
    return [*fixed, *server, "--edit-format", "whole", stream]


def _run(aider: Path, folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [str(aider), *arguments], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=280
    )
    return done.stdout + done.stderr


if __name__ == "__main__":
    main()
