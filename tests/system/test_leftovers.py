"""Temporary files of killed saves are deleted; everything else stays."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from modules.config.yaml_file import YamlFile
from modules.system.leftovers import MIN_AGE, sweep
from tests.support.checkpoint_files import put

LEFT = [".settings.yaml.ab12_xyz", ".model.gguf.0123abcd.part", ".jobs.json.new"]
KEPT = ["settings.yaml", ".settings.yaml", ".settings.yaml.backup-1", ".other.yaml.ab12_xyz", ".settings.yaml.AB12_XYZ"]


def aged(path: Path, seconds: float = MIN_AGE + 1) -> Path:
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def test_only_old_leftovers_of_the_named_files_are_deleted(tmp_path: Path) -> None:
    for name in (*LEFT, *KEPT):
        aged(put(tmp_path / name))
    (tmp_path / ".settings.yaml.folder_1").mkdir()
    (tmp_path / ".settings.yaml.a_link_1").symlink_to(tmp_path / "settings.yaml")
    young = aged(put(tmp_path / ".settings.yaml.12345678"), MIN_AGE - 60)
    deleted = sweep(tmp_path, ["settings.yaml", "model.gguf", "jobs.json"])
    assert sorted(path.name for path in deleted) == sorted(LEFT)
    assert young.exists() and all((tmp_path / name).exists() for name in KEPT)
    assert sweep(tmp_path / "missing", ["settings.yaml"]) == []


def test_what_a_killed_save_of_settings_leaves_is_recognized(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        os.replace = lambda *_: os._exit(0)  # type: ignore[assignment]
        YamlFile(tmp_path / "settings.yaml").update(lambda content: content.update({"a": 1}))
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert sweep(tmp_path, ["settings.yaml"]) == []
    (left,) = sweep(tmp_path, ["settings.yaml"], min_age=0)
    assert left.parent == tmp_path and not left.exists()


def test_what_cannot_be_deleted_stays_and_is_not_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stuck, other = (aged(put(tmp_path / f".settings.yaml.{name}")) for name in ("ab12_xyz", "ab13_xyz"))
    unlink = Path.unlink

    def refuse(path: Path) -> None:
        if path == stuck:
            raise PermissionError(13, "Permission denied")
        unlink(path)

    monkeypatch.setattr(Path, "unlink", refuse)
    assert sweep(tmp_path, ["settings.yaml"]) == [other]
    assert stuck.exists() and not other.exists()
