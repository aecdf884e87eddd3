"""Measure one load of a model: memory, the time of loading, and its speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from modules.core.errors import Unsupported
from modules.core.events import Done
from modules.core.prompt import Prompt
from modules.evaluation.price_result import Measurement
from modules.loaders.generation_settings import resolve
from modules.runtime.loaded_model import GENERATE, LoadedModel
from modules.system import cpu_memory

PROMPT_TOKENS, DECODED_TOKENS = 512, 128
MAX_CHARACTERS = 200_000
"""Of a text, for prompts and perplexity: the rest is not needed."""


@dataclass(frozen=True)
class SpeedTest:
    """Two prompts of the same length and different tokens, the first for a pass that is not measured."""

    rehearsal: tuple[int, ...]
    prompt: tuple[int, ...]
    decoded: int


def plan_speed_test(ids: Sequence[int], context_length: int) -> SpeedTest:
    """Return prompts of 512 tokens, after which 128 are decoded; fewer for a model with a short context.

    A text that is too short is repeated. Raises Unsupported for a text without tokens, or a context of less than 8.
    """
    if not ids or context_length < 8:
        raise Unsupported(
            {
                "en": "The speed cannot be measured with an empty text or a context of less than 8 tokens.",
                "zh": "文本为空或上下文少于 8 个词符时无法测量速度。",
            }
        )
    decoded = min(DECODED_TOKENS, context_length // 4)
    length = min(PROMPT_TOKENS, context_length - decoded - 1)
    repeated = [*ids] * (2 * length // len(ids) + 1)
    prompt, rehearsal = repeated[:length], repeated[length : 2 * length]
    if rehearsal[0] == prompt[0]:  # the KV cache could have its beginning
        rehearsal.reverse()
    return SpeedTest(tuple(rehearsal), tuple(prompt), decoded)


def measure(model: LoadedModel, test: SpeedTest, load_seconds: float) -> Measurement:
    """Run the test and return what it shows, but for the memory of GPUs. Raises what a generation raises."""
    _generate(model, test.rehearsal, test.decoded)
    done = _generate(model, test.prompt, test.decoded)
    read = done.prompt_tokens - done.cached_tokens
    return Measurement(
        memory=float(cpu_memory.peak_memory(model.pid)),
        load_seconds=load_seconds,
        prompt_speed=_speed(read, done.prompt_seconds),
        decode_speed=_speed(done.completion_tokens - 1, done.decode_seconds),
    )


def _generate(model: LoadedModel, tokens: Sequence[int], count: int) -> Done:
    """Continue `tokens` by the most likely ones, past an end token."""
    model.require(GENERATE)
    params = resolve({"max_new_tokens": count, "temperature": 0, "ban_eos_token": True})
    for event in model.generate(Prompt("", tokens=tuple(tokens)), params):
        if isinstance(event, Done):
            return event
    raise AssertionError("a generation ended without its end")


def _speed(tokens: int, seconds: float) -> float:
    return tokens / seconds if seconds > 0 and tokens > 0 else 0.0
