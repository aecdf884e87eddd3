"""Answers under Transformers while torch reports that a GPU has no more memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modules.core.events import Failed, Text
from modules.loaders.load_settings import settle, values
from modules.loaders.registry import LOADERS
from tests.support.answers import parameters
from tests.support.forked import forked

LAYERS = 4
BEFORE, ONE, OTHER = "one two three four five", "Once upon a time", "The capital of France is"


def answers_short_of_memory(folder: Path) -> dict[str, Any]:
    """Return for each case what is answered with memory enough, what when a pass fails in the middle, and how many
    prefixes the cache holds then. An answer is the tokens' texts, or the words of the error."""
    return forked(_answers, folder)


def spare_bytes(gpu_free: int, gpu_total: int, main_total: int) -> tuple[int, int]:
    """Return how many bytes the engine would keep on a GPU and in main memory of these sizes."""
    return forked(_spare_bytes, gpu_free, gpu_total, main_total)


def _spare_bytes(gpu_free: int, gpu_total: int, main_total: int) -> tuple[int, int]:
    import torch

    from modules.engines.hf import engine as hf_engine
    from modules.system import cpu_memory

    torch.cuda.mem_get_info = lambda _device: (gpu_free, gpu_total)  # type: ignore[assignment]
    cpu_memory.total_memory = lambda: main_total  # type: ignore[assignment]
    return hf_engine._prefix_cache_bytes(torch.device("cuda", 0)), hf_engine._prefix_cache_bytes(torch.device("cpu"))


@contextmanager
def short_of_memory(after: int, times: int = 1) -> Iterator[None]:
    """So many passes succeed, the next ones break off in the third layer."""
    import torch

    from modules.engines.hf import kv_cache

    update, passed = kv_cache.GrowableLayer.update, [0]

    def fails(layer: Any, *args: Any, **words: Any) -> Any:
        passed[0] += 1
        if after * LAYERS + 3 <= passed[0] and fails_left[0]:
            fails_left[0] -= 1
            passed[0] = after * LAYERS
            raise torch.OutOfMemoryError("CUDA out of memory")
        return update(layer, *args, **words)

    fails_left = [times]
    kv_cache.GrowableLayer.update = fails  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        kv_cache.GrowableLayer.update = update  # type: ignore[method-assign]


def said(made: Any, prompts: Sequence[str], **wishes: Any) -> list[str]:
    params = parameters(max_new_tokens=6, ban_eos_token=True, **wishes)
    for call, prompt in enumerate(prompts):
        made.submit(call, made.tokenize(prompt, params), params)
    told = [""] * len(prompts)
    while not made.idle:
        for call, event in made.step():
            told[call] += event.text if isinstance(event, Text) else ""
            told[call] += str(event.error) if isinstance(event, Failed) else ""
    return told


def _answers(folder: Path) -> dict[str, Any]:
    from modules.engines.hf.build import engine, torch_environment

    settled = values(settle(LOADERS["Transformers"], model={}, saved={}, flags={}, form={"cpu": True}))
    made = engine(folder, settled, torch_environment(), lambda _: None)
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
            told[name] = [enough, said(made, prompts, **wishes), len(made._prefixes)]
    made.forget()
    with short_of_memory(0):
        told["nothing to free"] = said(made, [ONE])
    said(made, [BEFORE])
    with short_of_memory(0, times=2):
        told["too much by itself"] = said(made, [ONE])
    return told
