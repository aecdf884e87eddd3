"""The model's status, facts and explanation as HTML, with all untrusted text escaped."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from modules.catalog.record import ModelRecord
from modules.catalog.record_reader import server_record
from modules.core.errors import DamagedModel, IncompleteModel, ModelProblem, UnsupportedModel, both
from modules.core.worker_errors import LoadFailed, WorkerDied
from modules.formats.server_file import ServerFile
from modules.planning.fit import Fit
from modules.runtime.status import Status
from modules.ui import locales
from modules.ui.model import model_html
from modules.ui.widgets import messages

HOSTILE = '<img src=x onerror="alert(1)">.gguf'


@pytest.mark.parametrize(
    ("language", "shown"), [("zh", "上下文长度 512、CFG 缓存"), ("en", "Context length 512, CFG cache")]
)
def test_a_remedy_of_several_options_lists_them_as_the_language_does(language: str, shown: str) -> None:
    fit = Fit((), ({"n_ctx": 512, "cfg_cache": True},))
    assert f">{shown}</button>" in model_html.memory(fit, locales.translator(language), language)


def test_untrusted_names_are_escaped_everywhere() -> None:
    tr = locales.translator("en")
    record = ModelRecord(
        HOSTILE, Path(HOSTILE), "gguf", 1, architecture=HOSTILE, quantization=HOSTILE, duplicate_of=HOSTILE
    )
    pieces = [
        model_html.pill(Status("ready", name=HOSTILE, loader=HOSTILE), tr),
        model_html.pill(Status("loading", name=HOSTILE), tr),
        model_html.load_status(Status("failed", error=LoadFailed("l", HOSTILE, HOSTILE)), tr, "en"),
        model_html.facts(record, tr),
        model_html.explanation(
            {"notes": [{"option": HOSTILE, "text": both(HOSTILE)}], "calls": {HOSTILE: 1}}, "en", tr
        ),
        messages.info(HOSTILE),
    ]
    assert all("<img" not in piece for piece in pieces)


def test_the_facts_of_an_embedding_model_say_that_it_cannot_chat() -> None:
    for task, words in {"embed": "embedding model: cannot chat", "rank": "reranking model: cannot chat"}.items():
        html = model_html.facts(ModelRecord("x", Path("x"), "gguf", 1, task=task), locales.translator("en"))
        assert words in html and "chat template" not in html


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_facts_of_a_model_say_that_its_chat_template_is_missing(language: str) -> None:
    tr = locales.translator(language)
    record = ModelRecord("x", Path("x"), "gguf", 1)
    assert tr("no_chat_template") in model_html.facts(record, tr)
    complete = dataclasses.replace(record, chat_template="{{ messages }}")
    assert tr("no_chat_template") not in model_html.facts(complete, tr)
    named = dataclasses.replace(record, named_templates={"rag": "{{ messages }}"})
    assert tr("no_default_template").replace("'", "&#x27;") in model_html.facts(named, tr)


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("problem_class", [IncompleteModel, DamagedModel, UnsupportedModel])
def test_the_facts_of_an_unloadable_model_name_its_state(problem_class: type[ModelProblem], language: str) -> None:
    tr = locales.translator(language)
    record = ModelRecord("x", Path("x"), "gguf", 0, problem=problem_class("x", both("broken")), duplicate_of="y.gguf")
    facts = model_html.facts(record, tr)
    assert f"<span>{tr(f'state_{problem_class.state}')}</span>" in facts
    assert "y.gguf" in facts and "0 MB" not in facts


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_load_without_a_percentage_says_what_is_waited_for(language: str) -> None:
    tr = locales.translator(language)
    for stage in ("kernels", "server", "machines"):
        loading = Status("loading", name="a", stage=stage)
        assert tr(f"stage_{stage}") in model_html.load_status(loading, tr, language)
        assert "%" not in model_html.pill(loading, tr)
    assert "25%" in model_html.pill(Status("loading", name="a", stage="weights", progress=0.25), tr)


def test_the_header_tells_a_model_that_has_ended_from_one_that_did_not_load() -> None:
    tr = locales.translator("en")
    assert "Stopped" in model_html.pill(Status("failed", name="a", error=WorkerDied(-9, both("generating"))), tr)
    assert "Load failed" in model_html.pill(Status("failed", name="a", error=LoadFailed("l", "a", "b")), tr)


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_model_on_a_server_shows_the_server_and_whether_it_answers(language: str) -> None:
    tr = locales.translator(language)
    connected = Status("ready", name="a", loader="Remote", context_length=4096, address="http://h:8080", memory=1 << 30)
    assert "http://h:8080" in model_html.load_status(connected, tr, language)
    assert "1.07 GB" not in model_html.load_status(connected, tr, language), "its memory is the server's"
    assert 'class="tx-pill tx-ready" ' in model_html.pill(connected, tr)
    assert 'title="a · http://h:8080"' in model_html.pill(connected, tr)
    ollama = model_html.pill(dataclasses.replace(connected, server="ollama"), tr)
    assert 'data-loader="ollama"' in ollama, "the parameters of that kind are shown"
    away = dataclasses.replace(connected, is_reachable=False)
    assert "http://h:8080" not in model_html.load_status(away, tr, language)
    assert "tx-unreachable" in model_html.pill(away, tr)


def test_the_facts_of_a_model_on_a_server_are_its_address_and_name() -> None:
    record = server_record("a.server.yaml", Path("a.server.yaml"), ServerFile("http://h:8080", "<m>"))
    html = model_html.facts(record, locales.translator("en"))
    assert "http://h:8080" in html
    assert "&lt;m&gt;" in html
    assert "chat template" not in html
