"""Check whether later tokens of a prompt change the logits of earlier ones in exllamav2: a script, with the stand-in.

`main` prints True or False twice for the model folder given on the command line: with SDPA, exllamav2's default, and
without.
"""

from __future__ import annotations

import sys


def main() -> None:
    import torch
    from exllamav2 import ExLlamaV2

    from tests.support.version_5_files import exllamav2_config

    config = exllamav2_config(sys.argv[1])
    config.num_hidden_layers = 2
    model = ExLlamaV2(config)
    model.load()
    for config.no_sdpa in (False, True):
        logits = [model.forward(torch.tensor([[504, 260, end]]))[0, 0] for end in (282, 9000)]
        print(bool((logits[0] - logits[1]).abs().max() > 0.5))
