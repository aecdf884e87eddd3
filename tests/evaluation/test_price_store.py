"""The file of prices: what is kept, and what happens to damaged files."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest

from modules.evaluation.errors import ResultsNotSaved, ResultsUnreadable
from modules.evaluation.price_result import PriceResult
from modules.evaluation.price_store import MAX_REPEATED, PriceResults


def result(number: int, key: str = "cache_8bit", model: str = "m") -> PriceResult:
    return PriceResult(str(number), key, "false", "true", model, "llama.cpp", ())


def test_results_are_kept_for_their_model_option_and_loader(tmp_path: Path) -> None:
    kept = PriceResults(tmp_path)
    assert kept.all() == []
    for one in (result(1), result(2, "flash_attn"), result(3, model="模型")):
        kept.add(one)
    again = PriceResults(tmp_path)
    assert [one.id for one in again.of("m")] == ["1", "2"]
    assert [one.id for one in again.of("m", "flash_attn", "llama.cpp")] == ["2"]
    assert again.of("m", "flash_attn", "Transformers") == []
    assert [one.model for one in again.of("模型")] == ["模型"]


def test_the_newest_results_of_a_comparison_remain(tmp_path: Path) -> None:
    kept = PriceResults(tmp_path)
    kept.add(result(100, "flash_attn"))
    for number in range(MAX_REPEATED + 2):
        kept.add(result(number))
    assert [one.id for one in kept.all()] == ["100", *map(str, range(2, MAX_REPEATED + 2))]


def test_entries_of_another_form_are_left_out(tmp_path: Path) -> None:
    kept = PriceResults(tmp_path)
    kept.add(result(1))
    body = json.loads(kept.path.read_text())
    body["prices"] += [3, {}, {**body["prices"][0], "effects": []}, {**body["prices"][0], "pairs": "many"}]
    kept.path.write_text(json.dumps(body))
    assert [one.id for one in kept.all()] == ["1"]


def test_a_damaged_file_is_reported_and_not_overwritten(tmp_path: Path) -> None:
    kept = PriceResults(tmp_path)
    for content in (b"{", b"[]", b"\xff", b'{"prices": 1}'):
        kept.path.write_bytes(content)
        with pytest.raises(ResultsUnreadable):
            kept.all()
        with pytest.raises(ResultsUnreadable):
            kept.add(result(1))
        assert kept.path.read_bytes() == content


def test_a_file_that_is_too_large_or_cannot_be_written_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = PriceResults(tmp_path)
    kept.add(result(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        with pytest.raises(ResultsNotSaved, match="File too large"):
            kept.add(result(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [one.id for one in kept.all()] == ["1"]
    monkeypatch.setattr("modules.evaluation.price_store.MAX_BYTES", kept.path.stat().st_size - 1)
    for action in (kept.all, lambda: kept.add(result(2))):
        with pytest.raises(ResultsUnreadable, match="MiB"):
            action()


def test_a_folder_that_is_gone_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(ResultsNotSaved):
        PriceResults(tmp_path / "gone").add(result(1))
