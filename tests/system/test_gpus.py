"""Detection of GPUs from the output of their drivers."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from modules.loaders.availability import overlay_of
from modules.loaders.registry import LOADERS
from modules.system import gpus
from modules.system.gpus import Gpu, GpuMonitor

MIB = 1 << 20
OUTPUT = """GPU-4a90, NVIDIA GeForce RTX 4090, 24564, 23012
GPU-4b00, NVIDIA A100-SXM4-80GB MIG 1g.10gb, [N/A], [Insufficient Permissions]
GPU-1c00, Odd, name, 8192, 100
"""


def nvidia_smi(folder: Path, body: str) -> Path:
    """Return a stand-in for nvidia-smi that runs `body`."""
    path = folder / "nvidia-smi"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def test_each_line_is_a_gpu_and_lines_without_memory_figures_are_skipped() -> None:
    assert gpus.parse_nvidia_smi(OUTPUT) == (
        Gpu("NVIDIA GeForce RTX 4090", 24564 * MIB, 23012 * MIB),
        Gpu("Odd, name", 8192 * MIB, 100 * MIB),
    )
    assert gpus.parse_nvidia_smi("") == gpus.parse_nvidia_smi("No devices were found") == ()


VISIBLE: list[tuple[str | None, list[str]]] = [
    (None, ["N", "O"]),
    ("0,1,2", ["N", "O"]),  # the indices include the skipped GPU
    ("2,0", ["O", "N"]),
    (" 2 , 0 ", ["O", "N"]),
    ("GPU-1c00,GPU-4a", ["O", "N"]),
    ("", []),
    ("-1", []),
    ("0,-1,2", ["N"]),
    ("2,3,0", ["O"]),
    ("2,none,0", ["O"]),
    ("2,²", ["O"]),
    ("GPU-1,GPU-4,GPU-4a90", ["O"]),  # GPU-4 is ambiguous
    ("2,MIG-1c00", ["O"]),
    ("0,2,0", []),
]


def test_the_gpus_visible_to_cuda_are_listed_in_the_requested_order(subtests: pytest.Subtests) -> None:
    for visible, names in VISIBLE:
        with subtests.test(visible=visible):
            assert [gpu.name[0] for gpu in gpus.parse_nvidia_smi(OUTPUT, visible)] == names


def test_gpus_are_read_from_nvidia_smi_and_none_if_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    path = nvidia_smi(tmp_path, f'echo "$@" > {tmp_path}/arguments; echo "GPU-1, Card, 8192, 8000"')
    assert gpus.nvidia_gpus(str(path)) == (Gpu("Card", 8192 * MIB, 8000 * MIB),)
    assert "--query-gpu=uuid,name,memory.total,memory.free" in (tmp_path / "arguments").read_text()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert gpus.nvidia_gpus(str(path)) == ()
    assert gpus.nvidia_gpus(str(nvidia_smi(tmp_path, "echo NVIDIA-SMI has failed; exit 9"))) == ()
    assert gpus.nvidia_gpus(str(tmp_path / "not there")) == ()


def test_amd_gpus_are_read_from_sysfs(tmp_path: Path) -> None:
    for card, (total, used) in {"card0": (100, 30), "card1": (50, 60)}.items():
        device = tmp_path / card / "device"
        device.mkdir(parents=True)
        (device / "mem_info_vram_total").write_text(f"{total}\n")
        (device / "mem_info_vram_used").write_text(f"{used}\n")
    invalid = tmp_path / "card2" / "device"
    invalid.mkdir(parents=True)
    (invalid / "mem_info_vram_used").write_text("?")
    assert gpus.amd_gpus(tmp_path) == (Gpu("AMD GPU 0", 100, 70), Gpu("AMD GPU 1", 50, 0))
    assert gpus.amd_gpus(tmp_path / "nothing") == ()


def test_the_monitor_detects_gpus_again_after_max_age() -> None:
    results = iter([(Gpu("a", 2, 1),), (Gpu("a", 2, 0),)])
    monitor = GpuMonitor(lambda: next(results), max_age=1000)
    assert monitor.current() == monitor.current() == (Gpu("a", 2, 1),)
    monitor.max_age = 0
    assert monitor.current() == (Gpu("a", 2, 0),)


def test_the_installed_llama_cpp_has_no_gpu_backend() -> None:
    """The tests' requirements build it for the CPU."""
    overlay = overlay_of(LOADERS["llama.cpp"])
    assert not gpus.llamacpp_has_gpu_backend(overlay.folder if overlay is not None else None)


def test_a_gpu_backend_is_recognized_by_its_library_in_the_overlay(tmp_path: Path) -> None:
    overlay = tmp_path / "overlay"
    assert not gpus.llamacpp_has_gpu_backend(overlay), "the result for a missing overlay must not be cached"
    library = overlay / "llama_cpp" / "lib" / "libggml-cuda.so"
    library.parent.mkdir(parents=True)
    (overlay / "llama_cpp" / "__init__.py").touch()
    assert not gpus.llamacpp_has_gpu_backend(overlay)
    library.touch()
    assert gpus.llamacpp_has_gpu_backend(overlay)


@pytest.mark.parametrize(
    ("lines", "build"),
    [
        (["cuda: Optional[str] = None", "hip: Optional[str] = None"], ("", "")),  # on Windows the version lacks "+cpu"
        (["cuda: Optional[str] = '12.8'", "hip: Optional[str] = None"], ("cuda", "12.8")),
        (["cuda = '11.7'", "hip = None"], ("cuda", "11.7")),
        (
            ["cuda: Optional[str] = None", 'hip: Optional[str] = "6.4.43482"', "rocm: Optional[str] = '6.4'"],
            ("hip", "6.4.43482"),
        ),
    ],
)
def test_the_build_of_pytorch_is_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: list[str], build: tuple[str, str]
) -> None:
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('not to be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert gpus.torch_build() == ("", ""), "incomplete"
    (tmp_path / "torch" / "version.py").write_text("\n".join(["__version__ = '2.13.0'", "debug = False", *lines]))
    assert gpus.torch_build() == build


def test_without_pytorch_there_is_no_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert gpus.torch_build() == ("", "")


@pytest.mark.parametrize(("build", "kind"), [("cuda", "NVIDIA"), ("hip", "AMD"), ("", "")])
def test_torch_gpus_are_those_of_the_vendor_that_pytorch_was_built_for(
    monkeypatch: pytest.MonkeyPatch, build: str, kind: str
) -> None:
    monkeypatch.setattr(gpus, "torch_build", lambda: (build, ""))
    monkeypatch.setattr(gpus, "nvidia_gpus", lambda: (Gpu("NVIDIA", 1, 1),))
    monkeypatch.setattr(gpus, "amd_gpus", lambda: (Gpu("AMD", 1, 1),))
    assert [gpu.name for gpu in gpus.torch_gpus()] == [kind] * bool(kind)
