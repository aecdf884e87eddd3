"""Convert a folder to EXL2 with exllamav2's own code: `python -m tests.support.exl2_conversion <folder> <new folder>
<work>`.

Needs exllamav2 and the stand-in for its extension on PYTHONPATH. The measuring pass, which chooses the bits of each
matrix, is left out: ATTENTION and MLP choose them. To finish within seconds, the calibration text is short and the
scales are searched in coarser steps.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any

import torch
from exllamav2 import ExLlamaV2, ExLlamaV2Tokenizer
from exllamav2.conversion.adaptivegptq import AdaptiveQuantizer
from exllamav2.conversion.compile import compile_model
from exllamav2.conversion.measure import embeddings
from exllamav2.conversion.qparams import QParams, qparams_headoptions
from exllamav2.conversion.quantize import quant
from safetensors.torch import save_file

from tests.support.version_5_files import exllamav2_config

TEXT = """A lighthouse keeper's log, the third of March. Wind from the north-west all night, with rain until four. At
sunrise the fog had gone and I counted eleven sails between the point and the islands. The lamp needed new wicks; the
boy cleaned the lenses while I wrote to the harbour master about the oil.

To make bread you need flour, water, salt and yeast. Mix 500 grams of flour with 320 grams of warm water, add ten grams
of salt and let the dough rest for an hour. Then fold it four times, shape it into a loaf, and bake it at 230 degrees
for about thirty-five minutes. Let it cool before you cut it.

def mean(values):
    total = 0
    for value in values:
        total += value
    return total / len(values)

The heart is a muscle that pumps blood through the body. It has four chambers: the two upper ones are called atria, and
the two lower ones are called ventricles. Blood that is poor in oxygen returns from the body to the right atrium, goes
to the lungs, and comes back to the left side, from which it is pumped out again.

user: What is the largest planet of our solar system? assistant: The largest planet is Jupiter. Its mass is more than
twice that of all the other planets together. user: And the smallest? assistant: That is Mercury, the one that is next
to the sun. In 1969 two people walked on the moon for the first time; in 1990 the Hubble telescope was brought to orbit.

"I do not believe a word of it," said Anna, and shut the book. "Nobody finds a ring in a fish. Not in this town, and not
on a Friday." Her brother laughed. He had told the story so often that he no longer knew which parts of it were true."""

FINE, GOOD, MIDDLING, COARSE = (
    QParams(128, [8], [1], 4),
    QParams(64, [6, 5], [0.1, 0.9], 4),
    QParams(32, [5, 4], [0.1, 0.9], 4),
    QParams(64, [4, 3], [0.25, 0.75], 4),
)
POOR = QParams(64, [3, 2], [0.25, 0.75], 4)
ATTENTION = {3: FINE, 9: GOOD, 21: GOOD}
MLP = {6: GOOD, 18: COARSE, 29: GOOD}
"""By layer; other layers are MIDDLING. In POOR_LAYER the queries and keys are POOR, so that all bit widths occur."""
POOR_LAYER = 15
HEAD_BITS = 6


def convert(source: Path, folder: Path, work: Path) -> None:
    AdaptiveQuantizer.p_grid = 4
    config = exllamav2_config(source)
    config.no_sdpa = True  # With SDPA, the attention would not be causal here.
    config.max_input_len = 512
    config.arch_compat_overrides()
    model = ExLlamaV2(config)
    model.load(lazy=True)
    ids = ExLlamaV2Tokenizer(config).encode(TEXT)
    job = _job(model, folder, work, ids)
    gc.freeze()  # The conversion collects garbage 365 times, which is slow with many live objects.
    embeddings(job, _skip_checkpoint, model)
    quant(job, _skip_checkpoint, model)
    compile_model(job, _skip_checkpoint, model)


def _skip_checkpoint() -> None: ...


def _job(model: Any, folder: Path, work: Path, ids: torch.Tensor) -> dict[str, Any]:
    (work / "out_tensor").mkdir(parents=True)
    save_file({"input_ids": ids.contiguous()}, work / "ids.safetensors")
    strategy = {}
    for layer in range(model.config.num_hidden_layers):
        attention, mlp = ATTENTION.get(layer, MIDDLING), MLP.get(layer, MIDDLING)
        parts = dict.fromkeys(("q_proj", "k_proj", "v_proj", "o_proj"), attention)
        if layer == POOR_LAYER:
            parts.update(q_proj=POOR, k_proj=POOR)
        strategy[f"model.layers.{layer}.self_attn"] = parts
        strategy[f"model.layers.{layer}.mlp"] = dict.fromkeys(("gate_proj", "up_proj", "down_proj"), mlp)
    return {
        "out_dir": str(work),
        "compile_full": str(folder),
        "cal_filename": str(work / "ids.safetensors"),
        "strategy": {
            key: {name: params.get_dict() for name, params in parts.items()} for key, parts in strategy.items()
        },
        "bits": round(_bits(model, strategy), 2),
        "head_bits": HEAD_BITS,
        "measurement_rows": 1,
        "dataset_rows": 1,
        "length": ids.shape[1],
        "cal_dataset": "lighthouse",
        "shard_size": 8192,
        "status_output": False,
    }


def _bits(model: Any, strategy: dict[str, dict[str, QParams]]) -> float:
    """Return the mean number of bits per weight of the layers."""
    bits = weights = 0
    for key, parts in strategy.items():
        for name, params in parts.items():
            shape = model.modules_dict[f"{key}.{name}"].matrix_shape()
            bits += params.total_bits(shape)
            weights += shape[0] * shape[1]
    return bits / weights


if __name__ == "__main__":
    assert HEAD_BITS in qparams_headoptions
    convert(*(Path(argument) for argument in sys.argv[1:]))
    sys.stdout.flush()
    os._exit(0)  # The interpreter's cleanup would take long and is not needed.
