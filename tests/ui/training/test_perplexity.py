"""The routes of perplexity: the form, estimates, runs with their curves, comments, and comparisons of rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.app import App
from modules.evaluation.results import COLUMNS
from modules.hub.mirrors import Mirrors
from modules.ui.training import perplexity
from tests.support.echo_models import use_echo
from tests.support.hub_server import HubServer

SECONDS = 20.0


def client_of(app: App) -> TestClient:
    server = FastAPI()
    perplexity.add_routes(server, app)
    return TestClient(server)


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    use_echo(monkeypatch, tmp_path / "models", "good.gguf", "other.gguf")
    folder = tmp_path / "datasets"
    folder.mkdir()
    (folder / "digits.txt").write_text("1 2 3 4 5 6 " * 20)
    made = make_app("--dataset-dir", str(folder), "--lora-dir", str(tmp_path / "loras"))
    yield made
    made.evaluations.close()


@pytest.fixture
def http(app: App) -> TestClient:
    return client_of(app)


def wanted(*models: str, **options: object) -> dict[str, object]:
    sent = {"max_length": "32", "stride": "16", **options}
    return {"text": "digits.txt", "subjects": [{"model": name} for name in models], "options": sent}


def evaluate(app: App, http: TestClient, *models: str) -> str:
    id = str(http.post("/perplexity/start", json=wanted(*models)).json()["id"])
    assert app.evaluations.wait(id, SECONDS)
    return id


def write_rows(app: App, *rows: dict[str, str]) -> None:
    common = {"Dataset": "t", "method": "chunks", "max_length": "512", "windows": "9", "tokens": "2000", "se": "0.1"}
    for number, row in enumerate(rows):
        app.evaluations.results.add(dict.fromkeys(COLUMNS, "") | common | {"id": str(number), "LoRAs": "None"} | row)


def compared(http: TestClient, *ids: str) -> str:
    return str(http.post("/perplexity/chart?lang=en", json={"ids": list(ids)}).json()["comparison"])


def test_the_form_lists_options_texts_and_models(http: TestClient) -> None:
    form = http.get("/perplexity/form?lang=zh").json()
    assert [field["key"] for field in form["fields"]] == ["method", "stride", "max_length", "windows", "bos", "kl"]
    assert form["fields"][1]["label"] == "步长" and form["models"] == ["good.gguf", "other.gguf"]
    assert [(text["name"], text["note"]) for text in form["texts"]] == [("digits.txt", "自备文本")]
    assert form["loaded"] == "" and form["has_wikitext"] is False


def test_an_evaluation_is_followed_and_its_curves_are_sent_once(app: App, http: TestClient) -> None:
    id = evaluate(app, http, "good.gguf", "other.gguf")
    body = http.get(f"/perplexity/runs?run={id}&drawn=-1").json()
    (run,) = body["runs"]
    assert run["ended"] and run["state"] == "done" and [one["done"] for one in run["subjects"]] == [7, 7]
    assert run["subjects"][1]["result"]["reference"] == "good.gguf" and "<svg" in body["curves"]
    assert "curves" not in http.get(f"/perplexity/runs?run={id}&drawn={body['drawn']}").json()


def test_an_evaluation_that_waits_is_stopped(app: App, http: TestClient) -> None:
    at_work = app.turns.queue({"en": "the training run x", "zh": "训练“x”"})
    id = http.post("/perplexity/start", json=wanted("good.gguf")).json()["id"]
    assert http.post("/perplexity/stop", json={"id": id}).json() == {}
    (run,) = http.get("/perplexity/runs").json()["runs"]
    assert (run["id"], run["state"], run["ended"]) == (id, "stopped", True)
    at_work.end()


def test_a_chart_has_the_texts_of_its_rows_and_no_interval_without_an_error(
    app: App, http: TestClient, subtests: pytest.Subtests
) -> None:
    def drawn(*ids: str) -> str:
        return str(http.post("/perplexity/chart?lang=en", json={"ids": list(ids)}).json()["chart"])

    assert drawn() == ""
    write_rows(
        app,
        {"Model": "a", "Perplexity": "10"},
        {"Model": "b", "Perplexity": "12", "se": ""},
        {"Model": "c", "Perplexity": "14", "Dataset": "other"},
        {"Model": "d", "Perplexity": ""},
    )
    with subtests.test(what="two texts"):
        assert "a · t" in drawn("0", "2") and "c · other" in drawn("0", "2") and "a · t" not in drawn("0", "1")
    with subtests.test(what="no error"):
        assert "12" in drawn("1") and "…" not in drawn("1") and "…" in drawn("0")
    with subtests.test(what="no perplexity"):
        assert drawn("3") == ""


def test_wikitext_that_cannot_be_fetched_says_why(app: App, http: TestClient, served: HubServer) -> None:
    app.mirrors = Mirrors(served.url, lambda: "")  # it does not have the archive
    answer = http.post("/perplexity/wikitext?lang=en")
    assert answer.status_code >= 400 and "wikitext" in answer.json()["error"].lower()
    assert served.requests("wikitext") and not http.get("/perplexity/form").json()["has_wikitext"]


def test_rows_of_one_run_are_compared_token_by_token(app: App, http: TestClient) -> None:
    evaluate(app, http, "good.gguf", "other.gguf")
    first, second = http.get("/perplexity/results").json()["rows"]
    assert second["against"] == first["id"] and first["against"] == ""
    for ids in ((first["id"], second["id"]), (second["id"], first["id"])):
        text = compared(http, *ids)
        assert "token by token" in text and "No difference seen" in text


def test_rows_of_two_runs_are_compared_token_by_token_as_long_as_their_tokens_are_kept(
    app: App, http: TestClient
) -> None:
    for model in ("good.gguf", "other.gguf"):
        evaluate(app, http, model)
    first, second = (row.id for row in app.evaluations.results.rows())
    assert "Compared token by token" in compared(http, first, second)
    (app.evaluations.tokens._folder / f"{first}.tokens").unlink()
    assert "Compared by their own errors" in compared(http, first, second)


def test_a_reference_that_was_evaluated_differently_is_none(app: App, http: TestClient) -> None:
    paired = {"Perplexity": "10", "reference": "a", "difference": "0.1"}
    write_rows(app, {"Model": "a", "Perplexity": "9", "windows": "5"}, {"Model": "b", **paired})
    assert [row["against"] for row in http.get("/perplexity/results").json()["rows"]] == ["", ""]
    assert "their texts or windows differ" in compared(http, "0", "1")


def test_the_time_is_estimated_once_the_model_was_evaluated(app: App, http: TestClient) -> None:
    before = http.post("/perplexity/estimate", json=wanted("good.gguf")).json()
    assert before["seconds"] is None and before["models"][0]["name"] == "good.gguf" and before["tokens"] == 69
    evaluate(app, http, "good.gguf")
    after = http.post("/perplexity/estimate", json=wanted("good.gguf")).json()
    assert after["seconds"] > 0 and after["tokens"] == 119


def test_other_rows_are_compared_by_their_own_errors(app: App, http: TestClient) -> None:
    write_rows(app, {"Model": "a", "Perplexity": "10"}, {"Model": "b", "Perplexity": "12"}, {"Model": "<c>"})
    text = compared(http, "0", "1")
    assert "Perplexity is 20 % higher" in text and "Compared by their own errors" in text
    margin = 2.3060 * math.hypot(0.1 / 10, 0.1 / 12)  # of 9 windows
    low, high = (100 * (1.2 * math.exp(end) - 1) for end in (-margin, margin))
    assert f"20 ({low:.3g} … {high:.3g}) %" in text
    assert "figures are missing" in compared(http, "0", "2") and "<c>" not in compared(http, "0", "2")


def test_rows_with_other_tokens_are_compared_in_bits_per_byte(app: App, http: TestClient) -> None:
    fields = {"Perplexity": "10", "bits_per_byte": "1"}
    write_rows(
        app,
        {"Model": "a", **fields},
        {"Model": "b", **fields, "tokens": "1500"},
        {"Model": "c", **fields, "text_hash": "x"},
    )
    assert "bits per byte are compared" in compared(http, "0", "1")
    assert "their texts or windows differ" in compared(http, "0", "2")


def test_comments_are_saved(app: App, http: TestClient) -> None:
    write_rows(app, {"Model": "a", "Perplexity": "10"})
    assert http.post("/perplexity/comments", json={"comments": {"0": "好"}}).status_code == 200
    assert http.get("/perplexity/results").json()["rows"][0]["comment"] == "好"
    gone = http.post("/perplexity/comments?lang=en", json={"comments": {"9": ""}})
    assert gone.status_code == 404 and "no longer in the table" in gone.json()["error"]


def test_bad_requests_are_refused_with_a_sentence(http: TestClient, subtests: pytest.Subtests) -> None:
    cases = (
        ({**wanted("good.gguf"), "text": "../x"}, 404, "There is no text"),
        (wanted("gone.gguf"), 404, "gone.gguf"),
        (wanted("good.gguf", stride="many"), 400, "stride"),
        (wanted("good.gguf", depth=1), 400, "depth"),
        ({**wanted(), "subjects": []}, 400, ""),
    )
    for number, (body, status, text) in enumerate(cases):
        for path in ("start", "estimate"):
            with subtests.test(f"{number} {path}"):
                answer = http.post(f"/perplexity/{path}?lang=en", json=body)
                assert answer.status_code == status and text in answer.json()["error"]
    assert http.post("/perplexity/stop", json={"id": "x"}).status_code == 404


def test_guests_are_refused(make_app: Callable[..., App]) -> None:
    guest = client_of(make_app("--multi-user", "--listen"))
    assert guest.get("/perplexity/results").status_code == 403
