"""Estimate the memory of a training run before it starts.

The first update shows what it really takes. Nothing was measured with GPUs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modules.engines.training.arguments import TARGETS, load_options
from modules.engines.training.samples import Sample
from modules.formats.model_shape import ModelShape
from modules.options.option import Value
from modules.runtime.memory_room import MemoryRoom, memory_model
from modules.training.start import training_loader

_ADAPTER_BYTES = 16
"""For each number of the adapter: itself, its gradient and two moments of AdamW, in float32."""
_LOGITS_BYTES = 12
"""For each logit of a row: in the compute dtype, in float32, and its gradient."""
_KEPT_HIDDEN, _KEPT_INTERMEDIATE = 26, 8
"""Numbers that a block keeps for the backward pass, for each one of its width and of its feed-forward width.

Measured with SmolLM2-135M in float32 on a CPU, all linear layers, dropout 0.05: 3.76 MB for each token of a batch.
"""

_CHARACTERS_PER_TOKEN, _MARKS = 2, 8


@dataclass(frozen=True)
class TrainingMemory:
    """Bytes: of the base model with its libraries, the adapter with its optimizer, and one micro-batch."""

    base: int
    adapter: int
    batch: int

    @property
    def total(self) -> int:
        return self.base + self.adapter + self.batch


def adapter_numbers(shape: ModelShape, parameters: Mapping[str, Value]) -> int:
    """Return how many numbers an adapter has, for a model with the usual layers of Llama."""
    heads, kv_heads = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    hidden, inner = shape.hidden_size, shape.intermediate_size
    ends = {"q": hidden + heads, "k": hidden + kv_heads, "v": hidden + kv_heads, "o": heads + hidden}
    ends |= {"gate": hidden + inner, "up": hidden + inner, "down": inner + hidden}
    chosen = [name for name in TARGETS if parameters["all_linear"] or parameters[f"{name}_en"]]
    per_block = sum(ends[name.removesuffix("_proj")] for name in chosen)
    return int(parameters["lora_rank"]) * per_block * shape.attention_layers


def longest_row(samples: Iterable[Sample], cutoff: int) -> int:
    """Estimate the tokens of the longest row from its characters: more than they usually are."""
    longest = 0
    for sample in samples:
        text = sample.text
        longest = max(longest, len(text) // _CHARACTERS_PER_TOKEN if text.isascii() else len(text))
    return min(longest + _MARKS, cutoff)


def estimate(
    shape: ModelShape,
    options: Mapping[str, Value],
    parameters: Mapping[str, Value],
    room: MemoryRoom,
    longest: int = 0,
) -> TrainingMemory | None:
    """Estimate a run; None if the memory of the base model cannot be estimated.

    `longest` are the tokens of the longest row; 0 takes the cutoff length.
    """
    loader = training_loader()
    model = memory_model(loader)
    if model is None:
        return None
    options = load_options(parameters, options, shape.method)
    gpus = [] if options["cpu"] else [card.free for card in room.cards(loader)]
    needs = model.placed(shape, options, gpus)
    base = sum(need.weights + need.other for need in needs)
    checkpointing = parameters["gradient_checkpointing"]
    recomputes = checkpointing == "on" or (checkpointing == "auto" and bool(gpus))
    width = 2 if gpus or parameters["base_weights"] in ("bfloat16", "float16") else 4
    kept = shape.hidden_size
    if not recomputes:
        kept = _KEPT_HIDDEN * shape.hidden_size + _KEPT_INTERMEDIATE * shape.intermediate_size
    packs = bool(parameters["packing"])
    cutoff = int(parameters["cutoff_len"])
    tokens = cutoff if packs else (longest or cutoff) * int(parameters["micro_batch_size"])
    batch = tokens * (shape.attention_layers * kept * width + shape.vocab_size * _LOGITS_BYTES)
    return TrainingMemory(base, adapter_numbers(shape, parameters) * _ADAPTER_BYTES, batch)
