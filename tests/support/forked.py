"""Run a function in a process of its own that has torch, transformers and PEFT imported.

Importing them takes 5 to 10 s of CPU time. A server process of `multiprocessing` does it once a session and forks for
each call, so that what a call does to the libraries, or leaves in memory, is gone afterwards.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")

SECONDS = 280
"""The time limit of one call: below that of a test."""
_IMPORTED = [
    "torch",
    "transformers",
    "transformers.generation.utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "bitsandbytes",
    "peft",
    "transformers.trainer",
    "tests.support.warm_transformers",
]


def forked(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Return what `function`, defined at the top of a module, returns; raise what it raises.

    Raises TimeoutError after SECONDS, also if the process crashes. The arguments and the result are pickled.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)  # of no effect once the server runs
    with context.Pool(1, gc.freeze) as pool:  # without it, each collection looks through all of torch
        return pool.apply_async(function, args, kwargs).get(SECONDS)
