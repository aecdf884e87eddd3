"""Check whether later tokens of a prompt change the logits before them: a script, on the stand-in of exllamav2.

`main` prints True or False, first for exllamav2's attention as it is and then without SDPA, for the model folder given
on the command line.
"""

from __future__ import annotations

import sys


def main() -> None:
    import torch
    from exllamav2 import ExLlamaV2, ExLlamaV2Config

    config = ExLlamaV2Config(sys.argv[1])
    config.num_hidden_layers = 2
    model = ExLlamaV2(config)
    model.load()
    for config.no_sdpa in (False, True):
        one, other = (model.forward(torch.tensor([[504, 260, end]]))[0, 0] for end in (282, 9000))
        print(bool((one - other).abs().max() > 0.5))
