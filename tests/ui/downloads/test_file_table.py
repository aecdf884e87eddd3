"""The table of a repository's files as HTML, with everything from outside escaped."""

from __future__ import annotations

import json
import re
from html import unescape

import pytest

from modules.core.errors import both
from modules.hub.file_choices import list_choices
from modules.hub.repository import RemoteFile, Repository
from modules.planning.download_fit import Verdict
from modules.ui.downloads import file_table
from modules.ui.locales import translator

HOSTILE = '"><img src=x onerror="alert(1)">&'


TR = translator("en")


OID, COMMIT = "0" * 40, "c" * 40


GIB = 1 << 30


def repository(*paths: str) -> Repository:
    return Repository("user/model", "main", COMMIT, tuple(RemoteFile(path, 2 * 10**9, git_oid=OID) for path in paths))


def table(*paths: str, ticked: tuple[str, ...] = (), here: tuple[str, ...] = ()) -> str:
    return file_table.table(list_choices(repository(*paths)), ticked, here, COMMIT, "en", TR)


def test_a_row_has_a_checkbox_a_name_a_quantization_and_a_size() -> None:
    told = table("m.Q4_K_M.gguf", "m.Q8_0.gguf", ticked=("m.Q8_0.gguf",), here=("m.Q4_K_M.gguf",))
    rows = told.split("<label")[1:]
    assert len(rows) == 2
    assert "recommended" in rows[0] and " checked" not in rows[0] and ">Downloaded<" in rows[0] and "2.00 GB" in rows[0]
    assert (
        "recommended" not in rows[1] and " checked" in rows[1] and ">Downloaded<" not in rows[1] and ">Q8_0<" in rows[1]
    )


def test_a_set_of_parts_is_one_row_disabled_if_incomplete() -> None:
    whole = table("m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf")
    assert whole.count("<label") == 1 and "2 parts" in whole and "disabled" not in whole
    lacking = table("m-Q8_0-00001-of-00002.gguf")
    assert " disabled" in lacking and "Missing parts: m-Q8_0-00002-of-00002.gguf" in lacking


@pytest.mark.parametrize("language", ["zh", "en"])
def test_files_that_may_run_code_have_a_warning(language: str) -> None:
    known = list_choices(repository("model.safetensors", "pytorch_model.bin", "code.py"))
    told = file_table.table(known, (), (), COMMIT, language, translator(language))
    assert told.count("tx-dl-warning") == 2 and "pickle" in told and "trust_remote_code" in told


def test_rows_are_limited_but_include_the_selected_ones() -> None:
    names = [f"{number:05}.bin" for number in range(file_table.MAX_ROWS + 5)]
    told = table(*names, ticked=(names[-1],))
    assert told.count("<label") == file_table.MAX_ROWS and "5 more files" in told and f'value="{names[-1]}"' in told


def test_untrusted_names_are_escaped_everywhere() -> None:
    verdict = {HOSTILE: Verdict("unsupported", why=both(HOSTILE))}
    pieces = [
        table(HOSTILE, f"{HOSTILE}-00001-of-00002.gguf", ticked=(HOSTILE,)),
        file_table.table((), (), (), HOSTILE, "en", TR),
        file_table.fits(verdict, HOSTILE, "en", TR),
        file_table.downloaded([HOSTILE], HOSTILE, TR),
        file_table.summary(HOSTILE, HOSTILE),
    ]
    assert all("<img" not in piece and 'onerror="' not in piece for piece in pieces)


def told_fits(html: str) -> dict[str, list[str]]:
    found = re.search(r'data-fits="([^"]*)"', html)
    assert found
    told: dict[str, list[str]] = json.loads(unescape(found[1]))
    return told


def test_fit_is_shown_with_its_numbers() -> None:
    found = {
        "a": Verdict("fits", 2 * GIB, 8 * GIB, 4096),
        "b": Verdict("tight", 7 * GIB, 8 * GIB),
        "c": Verdict("short", 9 * GIB, 8 * GIB, 512),
    }
    told = told_fits(file_table.fits(found, COMMIT, "en", TR))
    assert told["a"] == ["✓ fits", "needs about 2.0 GB, 8.0 GB free (context 4096)", "fits"]
    assert told["b"] == ["! tight", "weights 7.0 GB, 8.0 GB of memory free", "tight"]
    assert told["c"][0] == "✗ needs 9.0 GB, has 8.0 GB"
