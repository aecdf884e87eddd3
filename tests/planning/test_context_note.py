"""The note on a context that is longer than the one the model was trained with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.loaders.registry import LOADERS
from modules.planning.context_note import context_note
from modules.planning.load_request import LoadRequest
from tests.support.gguf_files import MODEL, gguf


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path) -> App:
    app = make_app()
    (tmp_path / "models" / "a.gguf").write_bytes(gguf({**MODEL, "llama.context_length": 2048}))
    return app


def test_a_context_beyond_the_trained_one_has_a_note_unless_it_is_extended(app: App, subtests: pytest.Subtests) -> None:
    record = app.record("a.gguf")
    for loader in ("llama.cpp", "llamacpp_HF"):
        for form, is_noted in (
            ({}, False),
            ({"n_ctx": 2048}, False),
            ({"n_ctx": 2049}, True),
            ({"n_ctx": 4096, "alpha_value": 2.5}, False),
            ({"n_ctx": 4096, "compress_pos_emb": 2}, False),
            ({"n_ctx": 4096, "rope_freq_base": 100000}, False),
            ({"n_ctx": 4096, "threads": 1}, True),
        ):
            with subtests.test(loader=loader, form=str(form)):
                note = context_note(app.planner.plan(LoadRequest(record, LOADERS[loader].name, form)))
                assert (note is not None) == is_noted
                assert note is None or (note.option == "n_ctx" and "2048" in note.text["en"])


def test_the_note_is_part_of_the_explanation(app: App) -> None:
    plan = app.planner.plan(LoadRequest(app.record("a.gguf"), "llama.cpp", {"n_ctx": 4096}))
    notes = {note["option"]: note["text"] for note in app.loading.explain(plan)["notes"]}
    assert "Context extension" in notes["n_ctx"]["en"] and "上下文扩展" in notes["n_ctx"]["zh"]
