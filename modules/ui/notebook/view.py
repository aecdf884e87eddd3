"""Describe a text of the notebook as JSON for the page's script. Positions count characters (code points)."""

from __future__ import annotations

from modules.core.events import Json
from modules.notebook.notebook import REPLACEMENT_CHARACTER, Notebook, Passage, Token
from modules.notebook.runs import RunState
from modules.ui.handlers import Page


def notebook_json(notebook: Notebook, run: RunState | None) -> dict[str, Json]:
    """Return everything that the page shows of a text, but the candidates of its tokens.

    Of a text that is being written it is without the new part, which the page gets by the stream of events.
    """
    state = notebook.state if run is None else run.base
    return {
        "name": notebook.name,
        "rev": notebook.rev,
        "text": state.text,
        "undo": len(notebook.undo),
        "redo": len(notebook.redo),
        "last": state.last,
        "forgotten": notebook.forgotten,
        "running": run is not None,
        "passages": [passage_json(passage) for passage in state.passages],
    }


def passage_json(passage: Passage) -> dict[str, Json]:
    return {"start": passage.start, "fills": passage.fills, "tokens": list(map(token_json, passage.tokens))}


def token_json(token: Token) -> Json:
    """Return the token's text, its log probability, and whether the text can be cut before it."""
    return [token.text, token.logprob, not token.inner]


def candidates_json(token: Token) -> dict[str, Json]:
    """Return a token and the most likely ones in its place. Parts of characters cannot be picked."""
    candidates = [
        {
            "id": one.id,
            "text": one.text,
            "logprob": one.logprob,
            "pickable": bool(one.text) and REPLACEMENT_CHARACTER not in one.text and not token.inner,
        }
        for one in token.candidates
    ]
    return {"id": token.id, "text": token.text, "logprob": token.logprob, "candidates": candidates}


def progress_line(run: RunState, page: Page) -> str:
    """Return the line about a run: its place in the queue, its progress or its speed, and why it ended."""
    tr = page.tr
    if run.phase == "waiting":
        return tr("waiting").format(position=run.position)
    if run.phase == "reading":
        return tr("reading").format(percent=round(run.progress * 100))
    if run.phase == "preparing":
        return tr("nb_preparing")
    parts = []
    if run.seconds and run.count > 1:
        speed = f"{(run.count - 1) / run.seconds:.1f}"
        parts.append(tr("live_speed").format(tokens=run.count, speed=speed))
    elif run.count:
        parts.append(tr("nb_tokens").format(count=run.count))
    ends = {"length": "nb_cut", "cancelled": "stopped", "stop": "nb_ended" if run.text else "nb_nothing"}
    return " · ".join([*parts, *([tr(ends[run.reason])] if run.reason in ends else [])])
