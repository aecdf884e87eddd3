"""The demo model in the formats of GPTQ and AWQ, and dequantised again: made from its folder in bfloat16.

The weights are rounded to the nearest level, which no calibration has placed; those with act-order by GPTQ proper. In
the formats and the names of their files the folders are as users meet them. `python -m tests.support.quantised_folders
<model folder> <folder> <kind>` writes one, and beside it `plain`, the same dequantised.
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
from tests.support.quantised_packing import GROUP, Rounded, Tensors, awq, floats, gptq, rounded_to_nearest

_SCRIPTS = ("quantised_folders.py", "quantised_packing.py", "quantised_calibrated.py")


@dataclass(frozen=True)
class Kind:
    """`ending` is what the folder's name says. `told_in` are the files that say how the weights are packed."""

    ending: str
    method: str = "gptq"
    bits: int = 4
    act_order: bool = False
    told_in: tuple[str, ...] = ("config.json", "quantize_config.json")
    file: str = "model.safetensors"


KINDS = {
    "gptq": Kind("GPTQ"),
    "gptq-act-order": Kind("GPTQ-4bit-64g-actorder", act_order=True),
    "gptq-8bit": Kind("GPTQ-8bit-64g", bits=8),
    "gptq-old": Kind("GPTQ-4bit-64g-old", told_in=("quantize_config.json",), file="gptq_model-4bit-64g.safetensors"),
    "gptq-bare": Kind("4bit-64g", told_in=(), file="SmolLM2-135M-Instruct-4bit-64g.safetensors"),
    "awq": Kind("AWQ", method="awq", told_in=("config.json",)),
}


def quantised_folder(source: Path, kind: str) -> Path:
    """Return the folder of `source`'s weights in one of KINDS; make it if no earlier run has.

    Beside it lies `plain`, the same weights dequantized.
    """

    def convert(folder: Path) -> None:
        command = [sys.executable, "-m", "tests.support.quantised_folders", str(source), str(folder), kind]
        run = subprocess.run(command, capture_output=True, text=True, timeout=280)
        assert run.returncode == 0, run.stderr

    scripts = [Path(__file__).parent / script for script in _SCRIPTS]
    return made_once(CACHE / version(scripts, str(source)) / kind, convert) / f"{source.name}-{KINDS[kind].ending}"


def plain(folder: Path) -> Path:
    """What `quantised_folder` has put beside it."""
    return folder.parent / "plain"


def _convert(source: Path, folder: Path, kind: Kind) -> None:
    config = json.loads((source / "config.json").read_text())
    raw = read_safetensors(source / "model.safetensors")
    kept = {name: each for name, each in raw.items() if not name.endswith("_proj.weight")}
    rounded = _rounded(source, {name: floats(raw[name]) for name in raw.keys() - kept.keys()}, kind)
    packed = {
        f"{name.removesuffix('weight')}{part}": array
        for name, each in rounded.items()
        for part, array in (gptq if kind.method == "gptq" else awq)(each).items()
    }
    said = {"quantization_config": _said(kind)} if "config.json" in kind.told_in else {}
    quantised = folder / f"{source.name}-{kind.ending}"
    _write(source, quantised, config | said, kept | packed, kind.file)
    if "quantize_config.json" in kind.told_in:
        (quantised / "quantize_config.json").write_text(json.dumps(_said(kind), indent=2))
    _write(source, folder / "plain", config, kept | {name: each.weight for name, each in rounded.items()})


def _rounded(source: Path, weights: dict[str, NDArray[np.float32]], kind: Kind) -> dict[str, Rounded]:
    if kind.act_order:
        from tests.support.quantised_calibrated import calibrated  # torch takes its time

        return calibrated(source, kind.bits)
    symmetric = kind.method == "gptq"
    return {name: rounded_to_nearest(each, kind.bits, symmetric) for name, each in sorted(weights.items())}


def _said(kind: Kind) -> dict[str, Any]:
    """As AutoGPTQ and AutoAWQ write it."""
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
    for each in source.iterdir():
        if each.name not in ("config.json", "model.safetensors"):
            (folder / each.name).write_bytes(each.read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    write_safetensors(folder / file, tensors)


# -- safetensors -------------------------------------------------------------------------------------------------------

_NUMPY = {"BF16": "<u2", "F16": "<f2", "F32": "<f4", "I32": "<i4"}


def read_safetensors(path: Path) -> Tensors:
    """Every tensor by its name; bfloat16 as the 16 bits it is."""
    return dict(_read(path))


def _read(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(size))
        for name, about in head.items():
            if name != "__metadata__":
                begin, end = about["data_offsets"]
                file.seek(8 + size + begin)
                yield name, np.frombuffer(file.read(end - begin), _NUMPY[about["dtype"]]).reshape(about["shape"])


if __name__ == "__main__":
    _convert(Path(sys.argv[1]), Path(sys.argv[2]), KINDS[sys.argv[3]])
