"""The table of a repository's files as HTML, with all untrusted text escaped."""

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


def table(*paths: str, selected: tuple[str, ...] = (), downloaded: tuple[str, ...] = ()) -> str:
    return file_table.table(list_choices(repository(*paths)), selected, downloaded, COMMIT, "en", TR)


def test_a_row_has_a_checkbox_a_name_a_quantization_and_a_size() -> None:
    html = table("m.Q4_K_M.gguf", "m.Q8_0.gguf", selected=("m.Q8_0.gguf",), downloaded=("m.Q4_K_M.gguf",))
    rows = html.split("<label")[1:]
    assert len(rows) == 2
    assert "recommended" in rows[0] and " checked" not in rows[0] and ">Downloaded<" in rows[0] and "2.00 GB" in rows[0]
    assert (
        "recommended" not in rows[1] and " checked" in rows[1] and ">Downloaded<" not in rows[1] and ">Q8_0<" in rows[1]
    )


def test_a_split_model_is_one_row_which_is_disabled_if_parts_are_missing() -> None:
    complete = table("m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf")
    assert complete.count("<label") == 1 and "2 parts" in complete and "disabled" not in complete
    incomplete = table("m-Q8_0-00001-of-00002.gguf")
    assert " disabled" in incomplete and "Missing parts: m-Q8_0-00002-of-00002.gguf" in incomplete


@pytest.mark.parametrize("language", ["zh", "en"])
def test_files_that_may_run_code_have_a_warning(language: str) -> None:
    choices = list_choices(repository("model.safetensors", "pytorch_model.bin", "code.py"))
    html = file_table.table(choices, (), (), COMMIT, language, translator(language))
    assert html.count("tx-dl-warning") == 2 and "pickle" in html and "trust_remote_code" in html


def test_rows_are_limited_but_include_the_selected_ones() -> None:
    names = [f"{number:05}.bin" for number in range(file_table.MAX_ROWS + 5)]
    html = table(*names, selected=(names[-1],))
    assert html.count("<label") == file_table.MAX_ROWS and "5 more files" in html and f'value="{names[-1]}"' in html


def test_untrusted_names_are_escaped_everywhere() -> None:
    verdicts = {HOSTILE: Verdict("unsupported", why=both(HOSTILE))}
    pieces = [
        table(HOSTILE, f"{HOSTILE}-00001-of-00002.gguf", selected=(HOSTILE,)),
        file_table.table((), (), (), HOSTILE, "en", TR),
        file_table.fits(verdicts, HOSTILE, "en", TR),
        file_table.downloaded([HOSTILE], HOSTILE, TR),
        file_table.summary(HOSTILE, HOSTILE),
    ]
    assert all("<img" not in piece and 'onerror="' not in piece for piece in pieces)


def parse_fits(html: str) -> dict[str, list[str]]:
    match = re.search(r'data-fits="([^"]*)"', html)
    assert match
    fits: dict[str, list[str]] = json.loads(unescape(match[1]))
    return fits


def test_the_memory_estimate_is_shown_with_its_numbers() -> None:
    verdicts = {
        "a": Verdict("fits", 2 * GIB, 8 * GIB, 4096),
        "b": Verdict("tight", 7 * GIB, 8 * GIB),
        "c": Verdict("short", 9 * GIB, 8 * GIB, 512),
    }
    fits = parse_fits(file_table.fits(verdicts, COMMIT, "en", TR))
    assert fits["a"] == ["✓ fits", "needs about 2.15 GB, 8.59 GB free (context 4096)", "fits"]
    assert fits["b"] == ["! tight", "weights 7.52 GB, 8.59 GB of memory free", "tight"]
    assert fits["c"][0] == "✗ needs 9.66 GB, has 8.59 GB"
