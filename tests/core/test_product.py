"""The revision of the program is read from the checkout, without Git."""

from __future__ import annotations

from pathlib import Path

from modules.core.product import read_revision

COMMIT, OTHER = "a" * 40, "b" * 40


def test_the_commit_is_found_wherever_git_keeps_it(tmp_path: Path) -> None:
    assert read_revision(tmp_path) == ""
    (tmp_path / "HEAD").write_text(f"{COMMIT}\n")
    assert read_revision(tmp_path) == COMMIT
    (tmp_path / "HEAD").write_text("ref: refs/heads/main\n")
    assert read_revision(tmp_path) == ""
    (tmp_path / "packed-refs").write_text(f"# pack-refs with: peeled\n{COMMIT} refs/heads/main\n^{OTHER}\n")
    assert read_revision(tmp_path) == COMMIT
    (tmp_path / "refs/heads").mkdir(parents=True)
    (tmp_path / "refs/heads/main").write_text(f"{OTHER}\n")
    assert read_revision(tmp_path) == OTHER
