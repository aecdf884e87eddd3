"""Python files that come with a model are found and hashed."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from modules.formats.remote_code import class_in_other_repository, hash_python_files


def sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_all_python_files_of_a_folder_are_hashed_including_hidden_and_linked_ones(tmp_path: Path) -> None:
    model, linked_folder = tmp_path / "model", tmp_path / "other"
    for folder in (model / "sub", linked_folder):
        folder.mkdir(parents=True)
    (model / "b.py").write_text("b")
    (model / "sub" / ".a.py").write_text("a")
    (model / "notes.txt").write_text("no code")
    (linked_folder / "c.py").write_text("c")
    (model / "linked").symlink_to(linked_folder)
    (linked_folder / "round").symlink_to(model)  # The cycle must not be followed endlessly.
    assert hash_python_files(model) == {"b.py": sha("b"), "linked/c.py": sha("c"), "sub/.a.py": sha("a")}


def test_a_file_that_cannot_be_read_counts_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    assert hash_python_files(tmp_path) == {"gone.py": "No such file or directory"}
    (tmp_path / "nowhere.py").write_text("x")
    assert hash_python_files(tmp_path)["gone.py"] == sha("x")


def test_for_a_gguf_file_the_python_files_of_its_tokenizer_folder_are_hashed(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    (tmp_path / "stray.py").write_text("not part of a tokenizer")
    assert hash_python_files(path) == {}
    shared = tmp_path / "my_llama-tokenizer"
    shared.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json"):
        (shared / name).touch()
    (shared / "tok.py").write_text("t")
    assert hash_python_files(path) == {"tok.py": sha("t")}


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "own.Config"}}, ""),
        ("config.json", {"auto_map": {"AutoConfig": "me/it--own.Config"}}, "me/it--own.Config"),
        ("config.json", {"text_config": {"auto_map": {"AutoModel": "me/it--own.M"}}}, "me/it--own.M"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": [None, "me/it--own.T"]}}, "me/it--own.T"),
        ("tokenizer_config.json", {"chat_template": "a--b"}, ""),
        ("config.json", ["auto_map"], ""),
    ],
)
def test_a_class_in_another_repository_is_found_in_auto_map(
    tmp_path: Path, file: str, content: object, expected: str
) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    (tmp_path / "damaged_config.json").write_text("{")
    assert class_in_other_repository(tmp_path) == expected
