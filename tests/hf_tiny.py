"""Tiny models with random weights, one of each kind that keeps what it has read in another way.

`python -m tests.hf_tiny <folder> <name>...` writes each with the tokenizer that lies in `<folder>/tokenizer`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

_SIZE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4, "vocab_size": 49152}
_HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
_ENDS = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 49152}

KINDS = {
    "llama": ("Llama", _SIZE | _HEADS),
    "window": ("Mistral", _SIZE | _HEADS | {"sliding_window": 24}),
    "mixed": ("Gemma3Text", _SIZE | _HEADS | {"sliding_window": 24, "query_pre_attn_scalar": 8}),
    "state": ("Mamba", {"hidden_size": 32, "state_size": 8, "num_hidden_layers": 2, "vocab_size": 49152}),
    "alibi": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, "vocab_size": 49152}),
    "learned": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": 49152}),
    "t5": ("T5", _T5 | {"decoder_start_token_id": 0}),
}
"""By our name: transformers' name, and its size."""


def tiny_models(folder: Path, tokenizer: Path, names: list[str]) -> dict[str, Path]:
    """The named ones, made in `folder` with the tokenizer of the folder `tokenizer`."""
    command = [sys.executable, "-m", "tests.hf_tiny", str(folder), *names]
    subprocess.run(command, check=True, timeout=280)
    for name in names:
        for file in tokenizer.glob("tokenizer*"):
            shutil.copy(file, folder / name)
    return {name: folder / name for name in names}


def main() -> None:
    import torch
    import transformers

    torch.manual_seed(3)
    for name in sys.argv[2:]:
        kind, size = KINDS[name]
        config = getattr(transformers, f"{kind}Config")(**size, **_ENDS)
        ending = {"T5": "ForConditionalGeneration", "GPT2": "LMHeadModel", "Gemma3Text": "ForCausalLM"}
        cls = getattr(transformers, kind.replace("Gemma3Text", "Gemma3") + ending.get(kind, "ForCausalLM"))
        model = cls(config)
        for weight in model.parameters():  # so that what was read long ago still counts
            torch.nn.init.normal_(weight, std=0.3)
        model.save_pretrained(Path(sys.argv[1]) / name)


if __name__ == "__main__":
    main()
