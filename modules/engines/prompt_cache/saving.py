"""Save the prompts of an engine while its worker waits for requests, and before it ends."""

from __future__ import annotations

import contextlib
import queue
import time
import traceback
from collections.abc import Generator
from typing import TypeVar

from modules.engines.engine_protocol import PromptSaver, saves_prompts

IDLE_SECONDS = 2.0
"""Time without a request after which an engine begins to save prompts."""
FINISH_SECONDS = 2.5
"""Time to save prompts in when the process is to end."""
CLOSING_SECONDS = 0.25
"""Time after that to delete an unfinished file. `runtime.worker_process` waits a little longer than for both."""

T = TypeVar("T")


def next_request(inbox: queue.SimpleQueue[T], engine: object) -> T:
    """Wait for a request. When none has come for a while, save prompts until one comes."""
    if not saves_prompts(engine):
        return inbox.get()
    pause = IDLE_SECONDS
    with contextlib.closing(_steps(engine, float("inf"), at_end=False)) as steps:
        while True:
            try:
                return inbox.get(timeout=pause)
            except queue.Empty:
                if next(steps, steps) is steps:
                    break
                pause = 0.0
    return inbox.get()


def save_at_end(engine: object, deadline: float) -> None:
    """Save prompts until `deadline`, a time of `time.monotonic`, and give up the file that is not complete then."""
    if saves_prompts(engine):
        with contextlib.closing(_steps(engine, deadline - time.monotonic(), at_end=True)) as steps:
            for _ in steps:
                if time.monotonic() > deadline:
                    break


def _steps(engine: PromptSaver, seconds: float, at_end: bool) -> Generator[None, None, None]:
    """Save prompts step by step. A fault in that, such as a lack of memory, must not end a model that answers well."""
    try:
        yield from engine.save_prompts(seconds, at_end)
    except (OSError, RuntimeError, ValueError, MemoryError):
        traceback.print_exc()
