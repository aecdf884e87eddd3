"""The documentation is up to date with the program."""

from __future__ import annotations

import re

import pytest

from modules.core.paths import ROOT
from modules.loaders.registry import LOADERS
from scripts import docs_tables
from tests.support.docs_matrices import TABLES

DOCUMENTS = {path: path.read_text(encoding="utf-8") for path in docs_tables.DOCUMENTS}
MAX_README_SIZE = 6 * 1024
"""In bytes: about one page."""


def test_tables_are_up_to_date() -> None:
    outdated = [path.name for path, text in DOCUMENTS.items() if docs_tables.fill(text) != text]
    assert not outdated, "run: python scripts/docs_tables.py"


def test_every_table_is_in_exactly_one_document() -> None:
    names = [name for text in DOCUMENTS.values() for name in re.findall(r"<!-- table: (.+?) -->", text)]
    assert sorted(names) == sorted(
        [*docs_tables.tables(), *(f"{table.title}, by the tests that ran" for table in TABLES)]
    )


def test_a_table_that_test_results_fill_has_a_row_for_each_loader(subtests: pytest.Subtests) -> None:
    for table in TABLES:
        rows = table.rows(DOCUMENTS[table.document])
        with subtests.test(table.title):
            assert [row[0] for row in rows] == list(LOADERS), 'run: ./test.sh -m "lora or works" --write-matrices'
            assert all(any(cell.strip() for cell in row[1:]) for row in rows), "a loader of which nothing was tested"


def test_links_and_pictures_point_to_existing_files() -> None:
    for path, text in DOCUMENTS.items():
        links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", text)]
        broken = [link for link in links if not link.startswith("https://") and not (path.parent / link).is_file()]
        assert not broken, path.name


def test_a_readme_is_short_and_shows_the_two_commands_and_a_picture() -> None:
    for name in ("README.md", "README.zh.md"):
        text = DOCUMENTS[ROOT / name]
        assert len(text.encode()) <= MAX_README_SIZE
        assert "./start.sh" in text and "./test.sh" in text and "![" in text
