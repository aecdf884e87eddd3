"""Patches of flaws of gradio 6.31.0: most keep the processor busy for nothing, one shows English in every language.

`tests/browser/test_page.py` and `tests/ui/test_gradio_patches.py` fail when a patch has become unnecessary.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.routing import Mount

from modules.ui.gradio_import import gradio

QUEUE_SECONDS = 0.01
MAX_RECORDED_EVENTS = 100
_PAGE = "frontend/index.html"
_FRAMES = Path(__file__).with_name("frames.js")
_HEAD = "{{ tx_head(request) | safe }}"
_REPLACEMENTS = {
    "function Z(e,t){if(e.id===t)return e;if(e.children)for(let n of e.children)"
    "{let e=Z(n,t);if(e)return e}return null}": (
        "function Z(e,t){const known=(Z.known??=new WeakMap).get(e)??new Map;Z.known.set(e,known);let node=e;"
        "for(const at of known.get(t)??[-1])node=node?.children?.[at];if(node?.id===t)return node;const path=[];"
        "const search=from=>{if(from.id===t)return from;for(const[at,child]of(from.children??[]).entries())"
        "{path.push(at);const found=search(child);if(found)return found;path.pop()}return null};"
        "node=search(e);node&&known.set(t,path);return node}"
    ),
    "r&&!(`value`in t)&&(await this.#m(e,r),": "r&&!(`value`in t)&&!(`loading_status`in t)&&(await this.#m(e,r),",
}
_LOST = {
    "w(C).push({title:`Connection Lost`,message:Je,fn_index:-1,type:`error`,id:qe,duration:null,visible:!0}),": "",
}


@contextlib.contextmanager
def without_unused_apps() -> Iterator[None]:
    """Build pages without the applications, and the descriptions of them, that Gradio makes as it builds them.

    It makes three for each page, before the one that serves it is made by `mount`: half of the time in which pages are
    built, and some megabytes.
    """
    app, blocks = gradio().routes.App, gradio().Blocks
    originals = app.__dict__["create_app"], blocks.get_config_file
    app.create_app, blocks.get_config_file = staticmethod(lambda *_, **__: None), lambda _: {}
    try:
        yield
    finally:
        app.create_app, blocks.get_config_file = originals


def mount(server: FastAPI, page: Any, path: str, **settings: Any) -> None:
    """Mount a `gradio.Blocks` that was built `without_unused_apps`."""
    gradio().mount_gradio_app(server, page, path=path, **settings)
    (page.app,) = [route.app for route in server.routes if isinstance(route, Mount) and route.path == path]


def slow_queue_polling(page: Any) -> None:
    """Make the queue of a `gradio.Blocks` poll for waiting events a hundred times a second instead of a thousand.

    Each page's queue polls all the time (`Queue.start_processing` in gradio/queueing.py), at 3 % of a core per
    language. An event now waits 5 ms longer on average.
    """
    page._queue.sleep_when_free = QUEUE_SECONDS
    page._queue.progress_update_sleep_when_free = 10 * QUEUE_SECONDS  # `gr.Progress` is not used


def skip_statistics(page: Any) -> None:
    """Compute no statistics of the events of a `gradio.Blocks`, which only Gradio's page for monitoring shows.

    After each event, Gradio put the facts of the last 10,000 into a table of pandas, whose import takes 34 MB and half
    a second.
    """
    page._queue.ANAYLTICS_CACHE_FREQUENCY = sys.maxsize  # events between two summaries
    page._queue.ANALYTICS_MAX_EVENTS = MAX_RECORDED_EVENTS


def slow_timer_frames() -> None:
    """Insert frames.js before all scripts of Gradio's page. Scripts passed as `head` come after them, too late."""
    script = f"<script>{_FRAMES.read_text(encoding='utf-8')}</script>"
    _insert(script, "<head>", f"<head>{script}")


def write_head(head: Callable[[Request], str]) -> None:
    """End the <head> of Gradio's page with what `head` returns for a request.

    What is passed as `head` when a page is mounted is inserted by Gradio's script only after that has started.
    """
    gradio().routes.templates.env.globals["tx_head"] = head
    _insert(_HEAD, "</head>", f"{_HEAD}</head>")


def _insert(addition: str, tag: str, replacement: str) -> None:
    """Replace `tag` in the template of Gradio's page, unless the template contains `addition` already."""
    environment = gradio().routes.templates.env
    read = environment.loader.get_source

    def get_source(environment: Any, name: str) -> tuple[str, str | None, Any]:
        source, *rest = read(environment, name)
        missing = name == _PAGE and addition not in source
        return (source.replace(tag, replacement, 1) if missing else source, *rest)

    environment.loader.get_source = get_source
    environment.cache.clear()


def speed_up_component_search(server: FastAPI) -> None:
    """Serve Gradio's script with a faster search for its components.

    At the beginning and the end of an event, Gradio tells every component of every event about its progress. Picking a
    model took the browser 2 s of processor time, two thirds of it for these two:
    - It searched each component from the root of the tree, through Svelte's proxies (`Z`). Now it follows the path on
      which it found the component before.
    - It copied all that a component shows before any change (`#m`). Now it does not for a change of progress.

    Call this before Gradio's pages are mounted. A version with another script is served unchanged.
    Source: https://github.com/gradio-app/gradio/tree/main/js/core/src/init.svelte.ts
    """
    _serve_changed(server, "core-*.js", _REPLACEMENTS)


def leave_out_lost_connections(server: FastAPI) -> None:
    """Serve Gradio's script without its message about a lost connection, which is in English in every language.

    `#tx-offline` (modules/ui/page.py) says it. Call this before Gradio's pages are mounted. A version with another
    script is served unchanged. Source: https://github.com/gradio-app/gradio/tree/main/js/core/src/Blocks.svelte
    """
    _serve_changed(server, "Blocks-*.js", _LOST)


def _serve_changed(server: FastAPI, pattern: str, replacements: Mapping[str, str]) -> None:
    """Serve the scripts of Gradio whose names match `pattern` with `replacements`, if each original is in it once."""
    for path in (Path(gradio().__file__).parent / "templates/frontend/assets").glob(pattern):
        script = path.read_text(encoding="utf-8")
        if all(script.count(original) == 1 for original in replacements):
            for original, replacement in replacements.items():
                script = script.replace(original, replacement)
            _serve(server, path.name, script)


def _serve(server: FastAPI, name: str, script: str) -> None:
    @server.get(f"/{{language}}/assets/{name}", include_in_schema=False)
    def asset(language: str) -> Response:
        return Response(script, media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})
