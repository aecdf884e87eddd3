"""Perplexity beyond the length that a model was trained for, with and without the RoPE scaling options.

The Transformers loader reads one text, longer than the model's trained context, with each option. The table shows the
perplexity of the tokens within that context and of those beyond it. The text is the documentation that CPython contains
(`pydoc_data.topics`), which is the same wherever the Python version is the same. An option works if the tokens beyond
are predicted as well as those within, which is not so without it.
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from figures import session, table, verdict
from program import MODEL, ROOT

sys.path.insert(0, str(ROOT))
from tests.support.hf_folder import transformers_folder

TRAINED, LENGTH, CHUNK = 8192, 12288, 512
MAX_RATIO = 1.1
"""Of the perplexity beyond the trained context, with the best option, to that within it."""
FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"alpha_value": 2.0},
    {"alpha_value": 4.0},
    {"rope_freq_base": 400_000.0},
    {"compress_pos_emb": 2.0},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a transformers folder; by default converted from the demo model")
    parser.add_argument("--trained", type=int, default=TRAINED, help="trained context length in tokens")
    parser.add_argument("--length", type=int, default=LENGTH, help="length of the text in tokens")
    args = parser.parse_args()
    folder = args.folder or transformers_folder(MODEL)
    with session(f"Perplexity within and beyond {args.trained} of {args.length} tokens: {folder.name} in bfloat16"):
        rows = [perplexities(folder, form, args.trained, args.length) for form in FORMS]
    table(["options", "within", "beyond"], rows)
    best = min(rows[1:], key=lambda row: row[2])
    ratio = best[2] / rows[0][1]
    verdict(f"Beyond to within, with {best[0]}", f"{ratio:.2f}", f"below {MAX_RATIO}", ratio < MAX_RATIO)


def perplexities(folder: Path, form: dict[str, Any], trained: int, length: int) -> tuple[str, float, float]:
    losses = token_losses(folder, form, length)
    within, beyond = losses[:trained], losses[trained:]
    name = ", ".join(f"{key}={value:g}" for key, value in form.items()) or "none"
    return name, math.exp(sum(within) / len(within)), math.exp(sum(beyond) / len(beyond))


def token_losses(folder: Path, form: dict[str, Any], length: int) -> list[float]:
    """Return the loss of each token after the first, in nats."""
    import torch

    model = load_model(folder, form)
    tokens = model.encode("\n\n".join(topics[name] for name in sorted(topics)))[: length + 1]
    cache, losses = model.fresh(), []
    for begin in range(0, length, CHUNK):
        end = min(begin + CHUNK, length)
        logits = model.forward(tokens[begin:end], cache, last=end - begin)
        targets = torch.tensor(tokens[begin + 1 : end + 1])
        losses += torch.nn.functional.cross_entropy(logits, targets, reduction="none").tolist()
    return losses


def load_model(folder: Path, form: dict[str, Any]) -> Any:
    """Load the model as a worker does."""
    from modules.engines.hf.loader import LOADER
    from modules.loaders.load_settings import option_values, resolve
    from modules.loaders.registry import find_loader

    options = option_values(
        resolve(find_loader("Transformers"), model={}, saved={}, flags={}, form={"bf16": True, **form})
    )
    engine: Any = LOADER.load(folder, options, lambda _: None)
    return engine.model


if __name__ == "__main__":
    main()
