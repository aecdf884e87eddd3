"""The name of the program, its revision, and the path of its log."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from modules.core.paths import ROOT

PRODUCT = "Text Studio"
"""The one name of the program: in the page, the API, the terminal and the documents."""

LOG_FILE = "logs/text-studio.log"
"""Relative to the checkout, as shown to users."""

FLAGS_FILE = "CMD_FLAGS.txt"
"""Flags for every start; relative to the checkout."""


@cache
def revision() -> str:
    """Return the Git commit of the checkout, as it was at the first call; "" if there is none."""
    return read_revision(ROOT / ".git")


def read_revision(git: Path) -> str:
    """Return the commit that is checked out in the repository whose data is in `git`; "" if it cannot be read."""
    try:
        head = (git / "HEAD").read_text().strip()
        name = head.removeprefix("ref: ")
        if name == head:
            return head
        if (git / name).is_file():
            return (git / name).read_text().strip()
        packed = [line.split(" ") for line in (git / "packed-refs").read_text().splitlines()]
    except (OSError, ValueError):
        return ""
    return next((words[0] for words in packed if words[1:] == [name]), "")
