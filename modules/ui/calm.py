"""Two faults of gradio 6.31.0 that have a page which stands still keep the processor busy, mended.

`tests/browser/test_page.py` and `tests/test_ui.py` tell when there is nothing left to mend.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modules.ui.lean import gradio

QUEUE_SECONDS = 0.01
_PAGE = "frontend/index.html"
_FRAMES = Path(__file__).with_name("frames.js")


def calm_queue(page: Any) -> None:
    """Have the queue of a `gradio.Blocks` look a hundred times a second whether an event waits, instead of a thousand.

    Each page's does so all the time (`Queue.start_processing` in gradio/queueing.py): 3 % of a core for each language.
    An event now waits 5 ms longer in the mean.
    """
    page._queue.sleep_when_free = QUEUE_SECONDS
    page._queue.progress_update_sleep_when_free = 10 * QUEUE_SECONDS  # nothing here uses `gr.Progress`


def calm_frames() -> None:
    """Put frames.js before all scripts of Gradio's page. What is given as `head` comes too late: they add it."""
    environment = gradio().routes.templates.env
    read, script = environment.loader.get_source, f"<script>{_FRAMES.read_text(encoding='utf-8')}</script>"

    def get_source(environment: Any, name: str) -> tuple[str, str | None, Any]:
        source, *rest = read(environment, name)
        wanted = name == _PAGE and script not in source
        return (source.replace("<head>", f"<head>{script}", 1) if wanted else source, *rest)

    environment.loader.get_source = get_source
    environment.cache.clear()
