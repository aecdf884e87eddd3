"""Perplexity beyond the length that a model was trained for, with and without the options that stretch its positions.

The Transformers loader reads one text, longer than the model's own context, under each option; told is the perplexity
of the tokens within that context and of those beyond it. The text is the documentation that CPython carries
(`pydoc_data.topics`), which is the same wherever the same Python is. A stretch works if the tokens beyond are as
well foreseen as those within, and without any they are not.
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

TRAINED, LENGTH, PIECE = 8192, 12288, 512
WORSE = 1.1
"""Times the perplexity within, which the tokens beyond may have where the positions are stretched."""
FORMS: tuple[dict[str, Any], ...] = (
    {},
    {"alpha_value": 2.0},
    {"alpha_value": 4.0},
    {"rope_freq_base": 400_000.0},
    {"compress_pos_emb": 2.0},
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a transformers folder; by default one made from the demo model")
    parser.add_argument("--trained", type=int, default=TRAINED, help="tokens it was trained for")
    parser.add_argument("--length", type=int, default=LENGTH, help="tokens that are read")
    args = parser.parse_args()
    folder = args.folder or transformers_folder(MODEL)
    with session(f"Perplexity within and beyond {args.trained} of {args.length} tokens: {folder.name} in bfloat16"):
        rows = [perplexities(folder, form, args.trained, args.length) for form in FORMS]
    table(["options", "within", "beyond"], [(name, *both) for name, *both in rows])
    best = min(rows[1:], key=lambda row: row[2])
    verdict(
        f"Beyond, with {best[0]}", f"{best[2] / rows[0][1]:.2f} of within", f"{WORSE}", best[2] < WORSE * rows[0][1]
    )


def perplexities(folder: Path, form: dict[str, Any], trained: int, length: int) -> tuple[str, float, float]:
    losses = read(folder, form, length)
    within, beyond = losses[:trained], losses[trained:]
    name = ", ".join(f"{key}={value:g}" for key, value in form.items()) or "none"
    return name, math.exp(sum(within) / len(within)), math.exp(sum(beyond) / len(beyond))


def read(folder: Path, form: dict[str, Any], length: int) -> list[float]:
    """The loss, in nats, of each token after the first."""
    import torch

    model = loaded(folder, form)
    tokens = model.encode("\n\n".join(topics[name] for name in sorted(topics)))[: length + 1]
    cache, losses = model.fresh(), []
    for begin in range(0, length, PIECE):
        end = min(begin + PIECE, length)
        logits = model.forward(tokens[begin:end], cache, last=end - begin)
        told = torch.tensor(tokens[begin + 1 : end + 1])
        losses += torch.nn.functional.cross_entropy(logits, told, reduction="none").tolist()
    return losses


def loaded(folder: Path, form: dict[str, Any]) -> Any:
    """The model as the worker would load it."""
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
