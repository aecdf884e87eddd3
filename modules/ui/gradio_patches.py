"""Three faults of gradio 6.31.0 that keep the processor busy for nothing, mended.

`tests/browser/test_page.py` and `tests/ui/test_ui.py` tell when there is nothing left to mend.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.responses import Response

from modules.ui.gradio_import import gradio

QUEUE_SECONDS = 0.01
_PAGE = "frontend/index.html"
_FRAMES = Path(__file__).with_name("frames.js")
_MENDED = {
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


def calm_search(server: FastAPI) -> None:
    """Serve Gradio's script with shorter ways to its components.

    At the beginning and at the end of each event it tells every component of any event how far that is; picking a model
    took the browser 2 s of processor time, two thirds of it for these two:
    - it searches each component from the root of the tree, by way of Svelte's proxies (`Z`): now along the path where
      it was found before;
    - it copies all that the component shows before it changes anything of it (`#m`): not for a mere progress now.

    Call this before Gradio's pages are mounted. A version whose script has none of this is served as it is.
    Source: https://github.com/gradio-app/gradio/tree/main/js/core/src/init.svelte.ts
    """
    for path in (Path(gradio().__file__).parent / "templates/frontend/assets").glob("core-*.js"):
        script = path.read_text(encoding="utf-8")
        if all(script.count(part) == 1 for part in _MENDED):
            for part, mended in _MENDED.items():
                script = script.replace(part, mended)
            _serve(server, path.name, script)


def _serve(server: FastAPI, name: str, script: str) -> None:
    @server.get(f"/{{language}}/assets/{name}", include_in_schema=False)
    def asset(language: str) -> Response:
        return Response(script, media_type="text/javascript", headers={"Cache-Control": "max-age=86400"})
