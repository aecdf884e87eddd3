"""The table of results on disk: the original's columns and rows, comments, and what it refuses to overwrite."""

from __future__ import annotations

import csv
import resource
from pathlib import Path

import pytest

from modules.evaluation import results
from modules.evaluation.errors import ResultNotFound, ResultsNotSaved, ResultsUnreadable
from modules.evaluation.results import COLUMNS, HASH_COLUMNS, ORIGINAL_COLUMNS, EvaluationResults

ORIGINAL = (
    "Model,LoRAs,Dataset,Perplexity,stride,max_length,Date,Comment\n"
    'llama-7b,None,wikitext,5.6,512,0,2023-05-01,"said ""good"", twice"\n'
    "llama-7b,None,wikitext,5.6,512,0,2023-05-01,\n"
)


@pytest.fixture
def table(tmp_path: Path) -> EvaluationResults:
    return EvaluationResults(tmp_path / "logs" / "evaluations.csv")


def cells(id: str = "a1", **changes: str) -> dict[str, str]:
    hashes = dict.fromkeys(HASH_COLUMNS, "0")
    return {"Model": "m", "Dataset": "t", "Perplexity": "18.1", "stride": "512", **hashes, "id": id, **changes}


def test_results_are_appended_under_the_columns_of_the_original(table: EvaluationResults) -> None:
    assert table.rows() == []
    table.add(cells("a1"))
    table.add(cells("a2", Perplexity="7"))
    with table.path.open(newline="") as file:
        lines = list(csv.reader(file))
    assert tuple(lines[0]) == COLUMNS and tuple(lines[0][:8]) == ORIGINAL_COLUMNS
    assert [row["Perplexity"] for row in table.rows()] == ["18.1", "7"]


def test_a_file_of_the_original_is_continued_with_its_rows_and_comments(table: EvaluationResults) -> None:
    table.path.parent.mkdir()
    table.path.write_text(ORIGINAL)
    first, second = table.rows()
    assert first["Comment"] == 'said "good", twice' and first.id != second.id
    table.add(cells())
    assert [row.id for row in table.rows()] == [first.id, second.id, "a1"]
    table.set_comments({second.id: "a second run, 第二次"})
    assert [row["Comment"] for row in table.rows()] == ['said "good", twice', "a second run, 第二次", ""]


def test_columns_of_other_programs_are_kept(table: EvaluationResults) -> None:
    table.path.parent.mkdir()
    table.path.write_text("\ufeffModel,Perplexity,mine\nm,5,kept\n", encoding="utf-8")
    table.add(cells())
    assert [row["mine"] for row in table.rows()] == ["kept", ""]


def test_a_model_is_tested_only_if_all_hashes_agree(table: EvaluationResults) -> None:
    keys = {"Model": "m", **dict.fromkeys(HASH_COLUMNS, "0")}
    assert table.find(keys) is None
    table.add(cells("a1"))
    table.add(cells("a2"))
    found = table.find(keys)
    assert found is not None and found.id == "a2"
    for column in HASH_COLUMNS:
        assert table.find({**keys, column: "1"}) is None


def test_a_comment_of_a_row_that_is_gone_changes_nothing(table: EvaluationResults) -> None:
    table.add(cells())
    with pytest.raises(ResultNotFound):
        table.set_comments({"a1": "new", "gone": "x"})
    assert table.rows()[0]["Comment"] == ""


def test_breaks_of_lines_stay_within_their_cell(table: EvaluationResults) -> None:
    table.add(cells("a1", Model="m\rn"))
    table.set_comments({"a1": "one\rtwo\r\nthree\nfour"})
    (row,) = table.rows()
    assert (row["Model"], row["Comment"], row["Dataset"]) == ("m\nn", "one\ntwo\nthree\nfour", "t")


def test_a_damaged_file_is_not_overwritten(
    table: EvaluationResults, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    table.path.parent.mkdir()
    monkeypatch.setattr(results, "MAX_BYTES", 1000)
    for raw in (b"\xff\xfe", b"a,b\n1,2\n", b'Model,Perplexity\n"m,5\n', b"x" * 1001):
        with subtests.test(raw=raw[:20]):
            table.path.write_bytes(raw)
            with pytest.raises(ResultsUnreadable):
                table.add(cells())
            assert table.path.read_bytes() == raw


def test_a_disk_that_refuses_is_said_and_the_table_stays_as_it_is(table: EvaluationResults) -> None:
    table.add(cells())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(ResultsNotSaved, match="File too large"):
            table.add(cells("a2"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [row.id for row in table.rows()] == ["a1"]


def test_a_folder_that_cannot_be_made_is_said(table: EvaluationResults) -> None:
    table.path.parent.touch()
    with pytest.raises((ResultsNotSaved, ResultsUnreadable)):
        table.add(cells())
