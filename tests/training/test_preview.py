"""Data is previewed by the tokenizer of the model alone, in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.catalog.record import ModelRecord
from modules.core.errors import WebUIError
from modules.core.training_errors import TrainingFailed
from modules.engines.training.samples import Sample
from modules.loaders.load_settings import option_values, resolve
from modules.training.dataset.errors import PreviewFailed
from modules.training.dataset.prepare import Prepared, PreparedFile
from modules.training.parameters import parse_parameters
from modules.training.preview import Previews, _key
from modules.training.process import TrainingProcess
from tests.conftest import TRANSFORMERS

SAMPLE = Sample(3, (("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", False), ("Zorb!<|im_end|>", True)))
BAD = {"en": "answer is empty", "zh": "answer 为空"}


def prepared(*samples: Sample) -> Prepared:
    return Prepared(PreparedFile("rows.json", samples, 4, ((2, BAD),), 1), None, samples, ())


def record(path: Path) -> ModelRecord:
    return ModelRecord("tiny", path, "safetensors", 1)


def test_the_rows_that_cannot_be_used_are_listed_without_a_process(tmp_path: Path) -> None:
    shown = Previews("nothing.there").preview(record(tmp_path), {}, {}, prepared())
    assert "examples" not in shown
    expected = {"name": "rows.json", "total": 4, "usable": 0, "bad_count": 1, "bad": [{"row": 2, "problem": BAD}]}
    assert shown["files"] == [expected]


def test_a_process_that_ends_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PreviewFailed, match="exit status 1"):
        Previews("nothing.there").preview(record(tmp_path), {}, parse_parameters({}), prepared(SAMPLE))


def test_only_the_previews_that_were_asked_for_last_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.training.preview._KEPT", 2)
    previews = Previews("tests.support.counting_preview")

    def process(seed: int) -> object:
        """Return the id of the process that has made the preview."""
        return previews.preview(record(tmp_path), {}, parse_parameters({}), prepared(SAMPLE), seed)["pid"]

    first, second = process(1), process(2)
    assert process(1) == first != second
    process(3)
    assert process(1) == first and process(2) != second


def test_what_the_process_reports_is_raised(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="as told"):
        Previews("tests.support.failing_trainer").preview(record(tmp_path), {}, parse_parameters({}), prepared(SAMPLE))


def test_an_error_of_the_process_is_reported_by_it(tmp_path: Path) -> None:
    process = TrainingProcess(tmp_path, None, "modules.engines.training.preview_process", "0")
    (event,) = process.events()  # it has no job
    process.close()
    error = WebUIError.from_json(event)
    assert isinstance(error, TrainingFailed) and "FileNotFoundError" in error.say("zh") and "job.json" in str(error)


def test_a_preview_is_made_again_once_the_tokenizer_has_changed(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    keys = set()
    for content in ("", "{}", "[]"):
        (tmp_path / "tokenizer.json").write_text(content)
        keys.add(_key(record(tmp_path), {}, {}, [SAMPLE], 0))
    assert len(keys) == 3


def test_a_preview_comes_from_the_tokenizer_of_the_model(tiny_folder: Path) -> None:
    previews = Previews()
    options = option_values(resolve(TRANSFORMERS, model={}, saved={}, flags={}, form={}))
    shown = previews.preview(record(tiny_folder), options, parse_parameters({}), prepared(SAMPLE))
    pieces = shown["examples"][0]["pieces"]
    assert "".join(text for text, trained, _ in pieces if trained) == "Zorb!<|im_end|>"
    assert [special for _, _, special in pieces if special] == ["<|im_start|>", "<|im_end|>"] * 2
    assert previews.preview(record(tiny_folder), options, parse_parameters({}), prepared(SAMPLE)) == shown
