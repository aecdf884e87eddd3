"""Convert the demo model to EXL2, together with a dequantized copy; done once and kept outside the repository.

The packing is done by exllamav2's own conversion in a child process, see tests/support/exl2_conversion.py. The
unpacking in this file is written from the format's description; it shares no code with the conversion, nor with the
stand-in for exllamav2's extension.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from modules.core.paths import ROOT
from tests.support.made_once import CACHE, made_once, version

OVERLAY = ROOT / "overlays" / "exllamav2"
STANDIN, FLASH = (ROOT / "tests" / "support" / name for name in ("exllamav2_standin", "exllamav2_standin_flash"))
NAME = "SmolLM2-135M-Instruct-exl2-4.35bpw"
INSTALLED = (OVERLAY / "exllamav2" / "version.py").is_file()
Floats = NDArray[np.float32]
Tensors = dict[str, NDArray[Any]]


def exl2_folder(source: Path) -> Path:
    """Return the folder of `source`'s weights in EXL2; create it, in half a minute, if no earlier run has.

    The sibling folder `plain` holds the same weights dequantized to float16.
    """

    def convert(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            _convert(source, folder / NAME, Path(work))
        _dequantize(folder / NAME, folder / "plain")

    scripts = Path(__file__), ROOT / "tests" / "support" / "exl2_conversion.py"
    return made_once(CACHE / version(scripts, str(source)) / "exl2", convert) / NAME


def plain(folder: Path) -> Path:
    """Return the dequantized copy of a folder that `exl2_folder` made."""
    return folder.parent / "plain"


def with_standin(*, flash: bool) -> dict[str, str]:
    """Return the environment of a process that imports exllamav2 with the stand-in for its extension."""
    paths = [str(path) for path in (ROOT, OVERLAY, STANDIN, *([FLASH] if flash else []))]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _convert(source: Path, folder: Path, work: Path) -> None:
    command = [sys.executable, "-m", "tests.support.exl2_conversion", str(source), str(folder), str(work)]
    environment = with_standin(flash=False)
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, (run.stdout[-2000:], run.stderr)
    assert "Warning, difference" not in run.stdout, "the conversion unpacked other values than it had packed"


def _dequantize(folder: Path, plain: Path) -> None:
    tensors = load_file(folder / "output.safetensors")
    names = sorted({name.removesuffix(".q_weight") for name in tensors if name.endswith(".q_weight")})
    floats = {name: array for name, array in tensors.items() if name.endswith(".weight")}
    for name in names:
        floats[f"{name}.weight"] = dequantized(tensors, name).astype(np.float16)
    plain.mkdir()
    config = json.loads((folder / "config.json").read_text())
    del config["quantization_config"]
    # The output layer is no longer tied: EXL2 stores it as a copy of the embeddings in 6 bits.
    config |= {"tie_word_embeddings": False, "dtype": "float16"}
    for file in folder.iterdir():
        if file.suffix == ".json" and file.name != "config.json":
            (plain / file.name).write_bytes(file.read_bytes())
    (plain / "config.json").write_text(json.dumps(config))
    save_file(floats, plain / "model.safetensors", {"format": "pt"})


# -- unpacking, written from the format's description ------------------------------------------------------------------


def dequantized(tensors: Tensors, name: str) -> Floats:
    """Unpack the weight `name` to shape (outputs, inputs) in float32, which is exact; float16 may round it."""
    rows = len(tensors[f"{name}.q_invperm"])
    groups = tensors[f"{name}.q_groups"].view(np.uint16).reshape(-1, 2)
    words = tensors[f"{name}.q_weight"].view(np.uint32)
    ends = [*groups[1:, 1].tolist(), len(words)]
    steps = []
    for (bits, first), end in zip(groups.tolist(), ends, strict=True):
        steps.append(stream(words[first:end], bits)[:rows] - np.float32(2 ** (bits - 1)))
    scales = _scales(tensors[f"{name}.q_scale"], tensors[f"{name}.q_scale_max"])
    weight = np.concatenate([part * scale for part, scale in zip(steps, scales, strict=True)])
    return np.ascontiguousarray(weight[tensors[f"{name}.q_invperm"]].T, np.float32)


def stream(words: NDArray[np.uint32], bits: int) -> NDArray[np.uint8]:
    """Unpack words to numbers of shape (rows, columns). Each column is a stream of `bits` per number, lowest first."""
    single_bits = np.unpackbits(np.ascontiguousarray(words.T).view(np.uint8), axis=1, bitorder="little")
    numbers = single_bits[:, : single_bits.shape[1] // bits * bits].reshape(len(single_bits), -1, bits)
    return np.packbits(numbers, axis=2, bitorder="little")[..., 0].T


def _scales(words: NDArray[np.int32], largest: NDArray[np.float16]) -> Floats:
    """Return scales of shape (groups, columns): squares of 1 to 16, in 256ths of the group's largest, in float16."""
    roots = stream(np.ascontiguousarray(words.view(np.uint32).T), 4).T + np.float32(1)
    share = (largest * np.float16(1 / 256)).astype(np.float16)
    return ((roots * roots).astype(np.float16) * share[:, None]).astype(np.float32)
