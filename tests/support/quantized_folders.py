"""Convert the demo model's bfloat16 folder to GPTQ and AWQ, together with dequantized copies.

The weights are rounded to the nearest level without calibration, except those with act-order, which the GPTQ algorithm
calibrates. Formats and file names are those of published models. `python -m tests.support.quantized_folders
<model folder> <folder> <kind>` writes one such folder, and the dequantized weights to the sibling folder `plain`.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.support.hf_folder import write_safetensors
from tests.support.made_once import CACHE, made_once, version
from tests.support.quantized_packing import GROUP, Rounded, Tensors, awq, floats, gptq, rounded_to_nearest

_SCRIPTS = ("quantized_folders.py", "quantized_packing.py", "calibrated_gptq.py")


@dataclass(frozen=True)
class Kind:
    """A quantization format: `suffix` of the folder's name, and `config_files` that describe how weights are packed."""

    suffix: str
    method: str = "gptq"
    bits: int = 4
    act_order: bool = False
    config_files: tuple[str, ...] = ("config.json", "quantize_config.json")
    file: str = "model.safetensors"


KINDS = {
    "gptq": Kind("GPTQ"),
    "gptq-act-order": Kind("GPTQ-4bit-64g-actorder", act_order=True),
    "gptq-8bit": Kind("GPTQ-8bit-64g", bits=8),
    "gptq-old": Kind(
        "GPTQ-4bit-64g-old", config_files=("quantize_config.json",), file="gptq_model-4bit-64g.safetensors"
    ),
    "gptq-bare": Kind("4bit-64g", config_files=(), file="SmolLM2-135M-Instruct-4bit-64g.safetensors"),
    "awq": Kind("AWQ", method="awq", config_files=("config.json",)),
}


def quantized_folder(source: Path, kind: str) -> Path:
    """Return the folder of `source`'s weights in one of KINDS, and create it if no earlier run has.

    The sibling folder `plain` holds the same weights dequantized.
    """

    def convert(folder: Path) -> None:
        command = [sys.executable, "-m", "tests.support.quantized_folders", str(source), str(folder), kind]
        run = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert run.returncode == 0, run.stderr

    scripts = [Path(__file__).parent / script for script in _SCRIPTS]
    return made_once(CACHE / version(scripts, str(source)) / kind, convert) / f"{source.name}-{KINDS[kind].suffix}"


def plain(folder: Path) -> Path:
    """Return the dequantized copy of a folder that `quantized_folder` made."""
    return folder.parent / "plain"


def _convert(source: Path, folder: Path, kind: Kind) -> None:
    config = json.loads((source / "config.json").read_text())
    raw = read_safetensors(source / "model.safetensors")
    unquantized = {name: array for name, array in raw.items() if not name.endswith("_proj.weight")}
    rounded = _rounded(source, {name: floats(raw[name]) for name in raw.keys() - unquantized.keys()}, kind)
    packed = {
        f"{name.removesuffix('weight')}{part}": array
        for name, levels in rounded.items()
        for part, array in (gptq if kind.method == "gptq" else awq)(levels).items()
    }
    extra = {"quantization_config": _quantization_config(kind)} if "config.json" in kind.config_files else {}
    quantized = folder / f"{source.name}-{kind.suffix}"
    _write(source, quantized, config | extra, unquantized | packed, kind.file)
    if "quantize_config.json" in kind.config_files:
        (quantized / "quantize_config.json").write_text(json.dumps(_quantization_config(kind), indent=2))
    dequantized = {name: levels.weight for name, levels in rounded.items()}
    _write(source, folder / "plain", config, unquantized | dequantized)


def _rounded(source: Path, weights: dict[str, NDArray[np.float32]], kind: Kind) -> dict[str, Rounded]:
    if kind.act_order:
        from tests.support.calibrated_gptq import calibrated  # only for this kind, because it imports torch

        return calibrated(source, kind.bits)
    symmetric = kind.method == "gptq"
    return {name: rounded_to_nearest(weight, kind.bits, symmetric) for name, weight in sorted(weights.items())}


def _quantization_config(kind: Kind) -> dict[str, Any]:
    """Return the configuration as AutoGPTQ or AutoAWQ writes it."""
    common = {"quant_method": kind.method, "bits": kind.bits, "group_size": GROUP}
    if kind.method == "awq":
        return {**common, "zero_point": True, "version": "gemm", "modules_to_not_convert": None}
    return {
        **common,
        "sym": True,
        "desc_act": kind.act_order,
        "static_groups": False,
        "damp_percent": 0.01,
        "true_sequential": False,
        "model_name_or_path": None,
        "model_file_base_name": kind.file.removesuffix(".safetensors"),
        "checkpoint_format": "gptq",
    }


def _write(
    source: Path, folder: Path, config: dict[str, Any], tensors: Tensors, file: str = "model.safetensors"
) -> None:
    folder.mkdir(parents=True)
    for path in source.iterdir():
        if path.name not in ("config.json", "model.safetensors"):
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / file, tensors)


# -- safetensors -------------------------------------------------------------------------------------------------------

_NUMPY = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "I32": "<i4"}


def read_safetensors(path: Path) -> Tensors:
    """Return all tensors by name; bfloat16 as raw 16-bit integers."""
    return dict(_read(path))


def _read(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(size))
        for name, entry in header.items():
            if name != "__metadata__":
                begin, end = entry["data_offsets"]
                file.seek(8 + size + begin)
                yield name, np.frombuffer(file.read(end - begin), _NUMPY[entry["dtype"]]).reshape(entry["shape"])


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]), KINDS[sys.argv[3]])
