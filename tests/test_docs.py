"""README keeps up with the program."""

from __future__ import annotations

import re

from modules.core.paths import ROOT
from scripts import readme_tables

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_tables_are_those_of_the_program() -> None:
    assert readme_tables.filled(README) == README, "run: python scripts/readme_tables.py"


def test_its_pictures_exist() -> None:
    pictures = re.findall(r"!\[.*?\]\((.+?)\)", README)
    assert pictures
    assert all((ROOT / picture).is_file() for picture in pictures)


def test_its_first_screen_is_the_two_commands() -> None:
    top = "\n".join(README.splitlines()[:15])
    assert "./start.sh" in top and "./test.sh" in top
