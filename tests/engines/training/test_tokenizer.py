"""The tokenizer of a base model is loaded, or a sentence says that its files are damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from modules.core.errors import DamagedModel
from tests.support.forked import forked

pytestmark = pytest.mark.usefixtures("backend")

DAMAGED = {
    "cut off": b'{"version": "1.0", "model": {',
    "empty": b"",
    "another JSON": b'{"a": 1}',
    "a list": b"[]",
    "not UTF-8": b"\xff\xfe\x00",
    "zeros": bytes(1000),
    "missing": None,
}


def load_damaged(folder: Path) -> dict[str, str]:
    """Return by case what loading the tokenizer in `folder` raises with such a tokenizer.json, after it was intact."""
    from modules.engines.training.tokenizer import load_tokenizer

    arguments = {"pretrained_model_name_or_path": str(folder)}
    assert load_tokenizer(arguments, "m")("a")["input_ids"]
    raised = {}
    for case, content in DAMAGED.items():
        (folder / "tokenizer.json").unlink(missing_ok=True)
        if content is not None:
            (folder / "tokenizer.json").write_bytes(content)
        try:
            load_tokenizer(arguments, "m")
            raised[case] = ""
        except DamagedModel as error:
            raised[case] = json.dumps({language: error.say(language) for language in ("en", "zh")})
    return raised


def test_damaged_files_of_a_tokenizer_are_named_in_a_sentence(
    tiny_folder: Path, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    folder = shutil.copytree(tiny_folder, tmp_path / "model")
    for case, said in forked(load_damaged, folder).items():
        with subtests.test(case=case):
            sentences = json.loads(said)
            assert sentences["en"].startswith("m: the tokenizer cannot be used (")
            assert "Download tokenizer.json" in sentences["en"] and "词符化器" in sentences["zh"]
            assert ": )" not in sentences["en"]
