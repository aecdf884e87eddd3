"""The LoRA of a run in its folder: whole or not at all, also on another disk, and after a death on the way."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.engines.training.job import CHECKPOINTS, RESULT, WHOLE
from modules.training.parameters import parse_parameters
from modules.training.publish import publish, sweep, take_checkpoint
from modules.training.run import RunFacts, RunView
from modules.training.start import PROMPT

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that has made an adapter of 100 kB."""
    folder = tmp_path / "runs" / "a"
    (folder / RESULT).mkdir(parents=True)
    (folder / RESULT / WEIGHTS).write_bytes(b"n" * 100_000)
    (folder / PROMPT).write_text("{}")
    return folder


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    """The folder of LoRAs, with an older one called "a"."""
    folder = tmp_path / "loras"
    (folder / "a").mkdir(parents=True)
    (folder / "a" / WEIGHTS).write_bytes(b"old")
    return folder


@pytest.fixture
def two_disks(monkeypatch: pytest.MonkeyPatch, loras: Path) -> None:
    """Refuse to rename what is not among the LoRAs to a name there, as if they were on another disk."""
    rename = os.rename

    def rename_on_one_disk(source: Path, target: Path) -> None:
        if (source.parent == loras) != (target.parent == loras):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), str(source))
        rename(source, target)

    monkeypatch.setattr("os.rename", rename_on_one_disk)


@contextlib.contextmanager
def small_disk() -> Iterator[None]:
    """Refuse new files of more than 50 kB."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def view(**fields: Any) -> RunView:
    parameters = parse_parameters({"lora_name": "a", "always_override": True})
    facts = RunFacts("a", "model", "/model", "safetensors", "", "", 5, parameters, {}, 0.0)
    return RunView(facts, "running", **fields)


def content(loras: Path) -> dict[str, bytes]:
    """Return the weights of each LoRA, and of each hidden folder beside them."""
    return {path.name: (path / WEIGHTS).read_bytes() for path in loras.iterdir()}


@pytest.mark.usefixtures("two_disks")
def test_a_lora_is_copied_to_another_disk(run: Path, loras: Path) -> None:
    assert publish(run, view(), loras) == "a"
    assert content(loras) == {"a": b"n" * 100_000}
    assert json.loads((loras / "a" / "training_parameters.json").read_text())["lora_name"] == "a"
    assert not (run / RESULT).exists()


@pytest.mark.usefixtures("two_disks")
def test_a_lora_that_cannot_be_replaced_is_put_back(run: Path, loras: Path) -> None:
    with small_disk(), pytest.raises(OSError, match="File too large"):
        publish(run, view(), loras)
    assert content(loras)["a"] == b"old" and (run / RESULT / WEIGHTS).stat().st_size == 100_000
    sweep(loras)
    assert content(loras) == {"a": b"old"}


def test_what_a_death_while_a_lora_was_replaced_has_left_behind_is_cleared(loras: Path) -> None:
    for name in (".a.replaced", ".lost.replaced", ".b.training-part"):
        (loras / name).mkdir()
        (loras / name / WEIGHTS).write_bytes(name.encode())
    sweep(loras)
    assert content(loras) == {"a": b"old", "lost": b".lost.replaced"}


def test_the_adapter_of_the_best_checkpoint_is_taken_or_else_that_of_the_newest(
    run: Path, subtests: pytest.Subtests
) -> None:
    for update in (3, 6, 9):
        folder = run / CHECKPOINTS / f"checkpoint-{update}"
        folder.mkdir(parents=True)
        (folder / CONFIG).write_text('{"r": 8}')
        (folder / WEIGHTS).write_text(str(update))
        (folder / WHOLE).touch()
    (run / CHECKPOINTS / "checkpoint-6" / WHOLE).unlink()
    for best, taken in (((3, 1.0), "3"), ((6, 1.0), "9"), (None, "9")):
        with subtests.test(best=best):
            assert take_checkpoint(run, view(best=best))
            assert (run / RESULT / WEIGHTS).read_text() == taken
            assert json.loads((run / RESULT / CONFIG).read_text()) == {"r": 8, "base_model_name_or_path": "model"}
    for damaged in ("{", "[]", "[" * 100_000):
        (run / CHECKPOINTS / "checkpoint-9" / CONFIG).write_text(damaged)
        with subtests.test(config=damaged[:5]):
            assert not take_checkpoint(run, view())
            assert (run / RESULT / WEIGHTS).read_text() == "9"  # as it was
