"""The perplexity of models on one text, by transformers alone in float32: run as a process of its own.

`tests.hf_reference.of("tests.perplexity_reference", paths=[...], text="...")` is one number for each path.
"""

from __future__ import annotations

import json
import math
import sys

from tests.hf_reference import loaded


def main() -> None:
    import torch

    asked = json.load(sys.stdin)
    found = []
    for path in asked["paths"]:
        model, tokenizer = loaded(path, {"dtype": torch.float32})
        tokens = tokenizer(asked["text"], return_tensors="pt").input_ids
        with torch.no_grad():
            found.append(math.exp(model(input_ids=tokens, labels=tokens).loss.item()))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
