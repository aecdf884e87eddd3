"""What the drivers say of the graphics cards."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from modules import gpus
from modules.gpus import Gpu, Gpus

MIB = 1 << 20
TOLD = """NVIDIA GeForce RTX 4090, 24564, 23012
NVIDIA A100-SXM4-80GB MIG 1g.10gb, [N/A], [Insufficient Permissions]
Odd, name, 8192, 100
"""


def program(folder: Path, body: str) -> Path:
    """An nvidia-smi that answers so."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_each_line_is_a_card_and_one_that_says_nothing_is_left_out() -> None:
    assert gpus.parsed(TOLD) == (
        Gpu("NVIDIA GeForce RTX 4090", 24564 * MIB, 23012 * MIB),
        Gpu("Odd, name", 8192 * MIB, 100 * MIB),
    )
    assert gpus.parsed("") == gpus.parsed("No devices were found") == ()


def test_the_driver_is_asked_and_its_failure_means_no_card(tmp_path: Path) -> None:
    asked = program(tmp_path, f'echo "$@" > {tmp_path}/asked; echo "Card, 8192, 8000"')
    assert gpus.nvidia(str(asked)) == (Gpu("Card", 8192 * MIB, 8000 * MIB),)
    assert "--query-gpu=name,memory.total,memory.free" in (tmp_path / "asked").read_text()
    assert gpus.nvidia(str(program(tmp_path, "echo NVIDIA-SMI has failed; exit 9"))) == ()
    assert gpus.nvidia(str(tmp_path / "not there")) == ()


def test_an_amd_card_is_found_in_the_kernels_files(tmp_path: Path) -> None:
    for card, (total, used) in {"card0": (100, 30), "card1": (50, 60)}.items():
        device = tmp_path / card / "device"
        device.mkdir(parents=True)
        (device / "mem_info_vram_total").write_text(f"{total}\n")
        (device / "mem_info_vram_used").write_text(f"{used}\n")
    broken = tmp_path / "card2" / "device"
    broken.mkdir(parents=True)
    (broken / "mem_info_vram_used").write_text("?")
    assert gpus.amd(tmp_path) == (Gpu("AMD GPU 0", 100, 70), Gpu("AMD GPU 1", 50, 0))
    assert gpus.amd(tmp_path / "nothing") == ()


def test_they_are_asked_no_oftener_than_needed() -> None:
    answers = iter([(Gpu("a", 2, 1),), (Gpu("a", 2, 0),)])
    known = Gpus(lambda: next(answers), patience=1000)
    assert known.now() == known.now() == (Gpu("a", 2, 1),)
    known.patience = 0
    assert known.now() == (Gpu("a", 2, 0),)


def test_this_build_of_llama_cpp_uses_none() -> None:
    """The tests' requirements build it for the processor."""
    assert not gpus.llamacpp_uses_them()


@pytest.mark.parametrize(("version", "uses"), [("2.13.0+cpu", False), ("2.13.0+cu128", True), ("2.13.0", True)])
def test_pytorch_says_in_its_version_whether_it_was_built_for_gpus(
    monkeypatch: pytest.MonkeyPatch, version: str, uses: bool
) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda _: version)
    assert gpus.torch_uses_them() == uses
