"""The documentation keeps up with the program."""

from __future__ import annotations

import re

from modules.core.paths import ROOT
from scripts import docs_tables
from tests.support.docs_matrices import TABLES

DOCUMENTS = {path: path.read_text(encoding="utf-8") for path in docs_tables.DOCUMENTS}
LONGEST_README = 6 * 1024
"""Bytes: one page, for somebody who does not know the program yet."""


def test_tables_are_those_of_the_program() -> None:
    due = [path.name for path, text in DOCUMENTS.items() if docs_tables.fill(text) != text]
    assert not due, "run: python scripts/docs_tables.py"


def test_every_table_stands_in_one_document() -> None:
    names = [name for text in DOCUMENTS.values() for name in re.findall(r"<!-- table: (.+?) -->", text)]
    assert sorted(names) == sorted(
        [*docs_tables.tables(), *(f"{table.title}, by the tests that ran" for table in TABLES)]
    )


def test_links_and_pictures_lead_to_files() -> None:
    for path, text in DOCUMENTS.items():
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
        broken = [link for link in links if not link.startswith("https://") and not (path.parent / link).is_file()]
        assert not broken, path.name


def test_a_readme_is_short_and_shows_the_two_commands_and_a_picture() -> None:
    for name in ("README.md", "README.zh.md"):
        text = DOCUMENTS[ROOT / name]
        assert len(text.encode()) <= LONGEST_README
        assert "./start.sh" in text and "./test.sh" in text and "![" in text
