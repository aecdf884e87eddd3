"""Answers under Transformers while a GPU is said to have no more memory: a script for a process of its own.

`python -m tests.hf_memory_probe <folder>` prints a JSON object: for each case what was answered with memory enough,
and what when it failed in the middle of a pass. An answer is the tokens' texts, or the words of the error.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from modules.engines import hf_cache
from modules.engines.hf_engine import Engine
from modules.engines.hf_loading import engine, this_machine
from modules.events import Failed, Text
from modules.loaders import LOADERS, settle, values
from tests.answers import parameters

LAYERS = 4
BEFORE, ONE, OTHER = "one two three four five", "Once upon a time", "The capital of France is"


@contextmanager
def short_of_memory(after: int, times: int = 1) -> Iterator[None]:
    """So many passes succeed, the next ones break off in the third layer."""
    update, passed = hf_cache.Growing.update, [0]

    def fails(layer: Any, *args: Any, **words: Any) -> Any:
        passed[0] += 1
        if after * LAYERS + 3 <= passed[0] and fails_left[0]:
            fails_left[0] -= 1
            passed[0] = after * LAYERS
            raise torch.OutOfMemoryError("CUDA out of memory")
        return update(layer, *args, **words)

    fails_left = [times]
    hf_cache.Growing.update = fails  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        hf_cache.Growing.update = update  # type: ignore[method-assign]


def said(made: Engine, prompts: Sequence[str], **wishes: Any) -> list[str]:
    for call, prompt in enumerate(prompts):
        made.submit(call, prompt, parameters(max_new_tokens=6, ban_eos_token=True, **wishes))
    told = [""] * len(prompts)
    while not made.idle:
        for call, event in made.step():
            told[call] += event.text if isinstance(event, Text) else ""
            told[call] += str(event.error) if isinstance(event, Failed) else ""
    return told


def main() -> None:
    settled = values(settle(LOADERS["Transformers"], model={}, saved={}, flags={}, form={"cpu": True}))
    made = engine(Path(sys.argv[1]), settled, this_machine(), lambda _: None)
    guessing = {"prompt_lookup_num_tokens": 3}
    told: dict[str, Any] = {}
    for name, prompts, wishes, after in (
        ("reading", [ONE], {}, 0),
        ("writing", [ONE], {}, 2),
        ("guessing", ["red blue red blue red blue red"], guessing, 2),
        ("writing two", [ONE, OTHER], {}, 4),
    ):
        made.forget()
        enough = said(made, prompts, **wishes)
        made.forget()
        said(made, [BEFORE])
        with short_of_memory(after):
            told[name] = [enough, said(made, prompts, **wishes), len(made._shelf)]  # type: ignore[arg-type]
    made.forget()
    with short_of_memory(0):
        told["nothing to let go of"] = said(made, [ONE])
    said(made, [BEFORE])
    with short_of_memory(0, times=2):
        told["too much by itself"] = said(made, [ONE])
    print(json.dumps(told))


if __name__ == "__main__":
    main()
