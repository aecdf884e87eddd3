"""Run the transformers engine in a child process while forward passes fail as if a GPU were out of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modules.core.events import Done, Failed, Progress, Text
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS
from tests.support.answers import parameters
from tests.support.forked import forked

LAYERS = 4
EARLIER, ONE, OTHER = "one two three four five", "Once upon a time", "The capital of France is"


def answers_short_of_memory(folder: Path) -> dict[str, Any]:
    """Return by case: the answers with enough memory, those with a failing forward pass, and the prefixes cached then.

    An answer is its text, or the message of its error.
    """
    return forked(_answers, folder)


def prefix_cache_bytes(gpu_free: int, gpu_total: int, main_total: int) -> tuple[int, int]:
    """Return the limit of the prefix cache on a GPU and in main memory of these sizes, in bytes."""
    return forked(_prefix_cache_bytes, gpu_free, gpu_total, main_total)


def interrupted_second_turn(folder: Path) -> tuple[list[float], int]:
    """Interrupt the prefill of a second turn. Return the progress after that, and how many tokens were cached."""
    return forked(_interrupted_second_turn, folder)


def _prefix_cache_bytes(gpu_free: int, gpu_total: int, main_total: int) -> tuple[int, int]:
    import torch

    from modules.engines.hf import kv_cache
    from modules.system import cpu_memory

    torch.cuda.mem_get_info = lambda _device: (gpu_free, gpu_total)  # type: ignore[assignment]
    cpu_memory.total_memory = lambda: main_total  # type: ignore[assignment]
    return kv_cache.prefix_cache_bytes(torch.device("cuda", 0)), kv_cache.prefix_cache_bytes(torch.device("cpu"))


@contextmanager
def out_of_memory(after: int, times: int = 1) -> Iterator[None]:
    """Let `after` forward passes succeed and the next `times` fail in the third layer."""
    import torch

    from modules.engines.hf import kv_cache

    update, updates, failures_left = kv_cache.GrowableLayer.update, [0], [times]

    def failing_update(layer: Any, *args: Any, **keywords: Any) -> Any:
        updates[0] += 1
        if after * LAYERS + 3 <= updates[0] and failures_left[0]:
            failures_left[0] -= 1
            updates[0] = after * LAYERS
            raise torch.OutOfMemoryError("CUDA out of memory")
        return update(layer, *args, **keywords)

    kv_cache.GrowableLayer.update = failing_update  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        kv_cache.GrowableLayer.update = update  # type: ignore[method-assign]


def answer_all(engine: Any, prompts: Sequence[str], **changes: Any) -> list[str]:
    """Return the answers to `prompts`, submitted at once."""
    params = parameters(max_new_tokens=6, ban_eos_token=True, **changes)
    for call, prompt in enumerate(prompts):
        engine.submit(call, engine.tokenize(prompt, params), params)
    answers = [""] * len(prompts)
    while not engine.idle:
        for call, event in engine.step():
            answers[call] += event.text if isinstance(event, Text) else ""
            answers[call] += str(event.error) if isinstance(event, Failed) else ""
    return answers


def _interrupted_second_turn(folder: Path) -> tuple[list[float], int]:
    from modules.engines.hf import build

    options = option_values(resolve(LOADERS["Transformers"], model={}, saved={}, flags={}, form={"cpu": True}))
    engine = build.engine(folder, options, build.torch_environment(), lambda _: None)
    engine.model.prefill_chunk = 16
    answer_all(engine, [EARLIER * 8])
    (first,) = engine._prefixes._prefixes  # type: ignore[attr-defined]
    engine.submit(0, [*first.tokens, *range(5, 45)], parameters(max_new_tokens=2, ban_eos_token=True))
    progress, cached = [], -1
    for step in range(100):
        engine.interrupt(urgent=step == 1)
        for _, event in engine.step():
            if isinstance(event, Progress) and step > 1:
                progress.append(event.done)
            cached = event.cached_tokens if isinstance(event, Done) else cached
        engine.resume()
        if engine.idle:
            break
    return progress, cached


def _answers(folder: Path) -> dict[str, Any]:
    from modules.engines.hf import build

    options = option_values(resolve(LOADERS["Transformers"], model={}, saved={}, flags={}, form={"cpu": True}))
    engine = build.engine(folder, options, build.torch_environment(), lambda _: None)
    lookup = {"prompt_lookup_num_tokens": 3}
    answers: dict[str, Any] = {}
    for case, prompts, changes, passes in (
        ("prefill", [ONE], {}, 0),
        ("decoding", [ONE], {}, 2),
        ("prompt lookup", ["red blue red blue red blue red"], lookup, 2),
        ("decoding two", [ONE, OTHER], {}, 4),
    ):
        engine.forget()
        expected = answer_all(engine, prompts, **changes)
        engine.forget()
        answer_all(engine, [EARLIER])
        with out_of_memory(passes):
            answers[case] = [expected, answer_all(engine, prompts, **changes), len(engine._prefixes)]
    engine.forget()
    with out_of_memory(0):
        answers["nothing to free"] = answer_all(engine, [ONE])
    answer_all(engine, [EARLIER])
    with out_of_memory(0, times=2):
        answers["too much by itself"] = answer_all(engine, [ONE])
    return answers
