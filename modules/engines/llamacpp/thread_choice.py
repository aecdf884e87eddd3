"""Choose the number of threads that decode where the user leaves it open: by a measured second, once per machine."""

from __future__ import annotations

from collections.abc import Callable

from modules.core.events import Json
from modules.engines.llamacpp.bindings import Model
from modules.system import thread_count
from modules.system.foreign_load import ForeignLoad

MAX_FOREIGN_LOAD = 0.1
"""Share of the processors that other programs may use in a measurement whose result is to be remembered."""


def choose_threads(model: Model, context: dict[str, Json], decode: Callable[[], None]) -> None:
    """Measure which number of threads is the fastest, and use it, unless it is known or only one is plausible.

    `context` are the arguments by which the context of `model` was created; `decode` decodes a token. Beside other
    programs that compute, the usual number is used, and the next load measures again.
    """
    counts = thread_count.plausible_counts()
    if len(counts) < 2 or thread_count.remembered():
        return
    load = ForeignLoad()
    rates = thread_count.measure(counts, model.use_threads, decode)
    if rates and load.share([]) <= MAX_FOREIGN_LOAD:
        thread_count.remember(rates)
        context["n_threads"] = thread_count.fastest(rates)
    model.use_threads(context["n_threads"])
