"""Errors of the disk in sentences, and the fingerprint of a base model."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from modules.core.training_errors import TrainingDiskFull, TrainingFailed
from modules.training.start import disk_problems, fingerprint


def test_errors_of_the_disk_are_translated(tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        with pytest.raises(TrainingDiskFull) as full, disk_problems(tmp_path):
            raise OSError(number, os.strerror(number))
        assert full.value.folder == str(tmp_path) and full.value.free > 0
    (tmp_path / "config").mkdir()
    with pytest.raises(TrainingFailed, match=r"Is a directory: .*config"), disk_problems(tmp_path):
        (tmp_path / "config").write_text("x")


def test_a_base_model_without_a_configuration_has_no_fingerprint(tmp_path: Path) -> None:
    assert fingerprint(tmp_path / "none") == ""
    (tmp_path / "config.json").write_text("{}")
    before = fingerprint(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    assert before not in ("", fingerprint(tmp_path))
