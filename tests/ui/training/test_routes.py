"""The routes of the Training page: the form, what a run would be, and the runs, with a stand-in for the trainer."""

from __future__ import annotations

import io
import json
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from modules.app import App
from modules.training.parameters import PARAMETERS as TABLE
from modules.ui.training import routes
from tests.support.echo_trainer import UPDATES
from tests.support.gguf_files import MODEL, Tensor, gguf
from tests.support.lora_files import peft
from tests.support.training_app import PARAMETERS, ROWS, add_run, training_app

SECONDS = 20


def client_of(app: App) -> TestClient:
    server = FastAPI()
    routes.add_routes(server, app)
    return TestClient(server)


@pytest.fixture
def app(make_app: Callable[..., App], tmp_path: Path) -> App:
    return training_app(make_app, tmp_path)


@pytest.fixture
def http(app: App) -> TestClient:
    return client_of(app)


def facts(http: TestClient, language: str = "en", **changed: Any) -> dict[str, Any]:
    return http.post(f"/training/facts?lang={language}", json={"values": {**PARAMETERS, **changed}}).json()


def test_the_form_has_all_parameters_and_names_to_choose_from(http: TestClient, tmp_path: Path) -> None:
    (tmp_path / "models" / "file.gguf").write_bytes(gguf())
    form = http.get("/training/form?lang=zh").json()
    fields = {field["key"]: field for group in form["groups"] for field in group["fields"]}
    assert list(fields) == list(TABLE)
    assert (fields["lora_rank"]["label"], fields["lora_rank"]["kind"]) == ("LoRA 秩", "whole")
    assert form["lists"]["datasets"] == ["facts.json"] and form["lists"]["models"] == ["model"]
    assert form["lists"]["others"] == ["file.gguf"]


def test_a_run_is_described_before_it_starts(http: TestClient) -> None:
    found = facts(http)
    assert (found["rows"], found["updates"], found["few"]) == (len(ROWS), 3, True)
    better = facts(http, **found["fitted"])
    assert better["updates"] >= 60 and not better["few"] and better["fitted"] == {}
    assert facts(http, eval_share=0.3)["evaluation"] > 0


def test_the_memory_of_a_run_goes_by_its_longest_row(http: TestClient, tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "models" / "tiny").symlink_to(tiny_folder)
    short, long = (facts(http, model="tiny", cutoff_len=cutoff)["memory"] for cutoff in (512, 4096))
    assert 0 < short == long


def test_changed_data_is_read_again(http: TestClient, tmp_path: Path) -> None:
    assert facts(http)["rows"] == len(ROWS)
    (tmp_path / "datasets" / "facts.json").write_text(json.dumps(ROWS[:4]))
    assert facts(http)["rows"] == 4


def test_an_error_names_the_field_to_change(http: TestClient, tmp_path: Path, subtests: pytest.Subtests) -> None:
    (tmp_path / "models" / "file.gguf").write_bytes(gguf())
    (tmp_path / "datasets" / "bad.jsonl").write_text('{"instruction": "a", "output": "b"}\n{broken\n')
    cases: list[tuple[dict[str, Any], str, str]] = [
        ({"learning_rate": "fast"}, "learning_rate", "fast"),
        ({"micro_batch_size": "5"}, "micro_batch_size", "32"),
        ({"model": ""}, "model", ""),
        ({"model": "file.gguf"}, "model", "GGUF"),
        ({"model": "nothing"}, "model", "nothing"),
        ({"dataset": ""}, "dataset", ""),
        ({"dataset": "none"}, "dataset", "none"),
        ({"dataset": "", "raw_text_file": "none"}, "raw_text_file", "none"),
        ({"eval_dataset": "none"}, "eval_dataset", "none"),
        ({"dataset": "bad"}, "skip_bad_rows", "2"),
        ({"format": "none"}, "format", "none"),
        ({"lora_name": "../a"}, "lora_name", "../a"),
    ]
    for changed, field, text in cases:
        for language in ("zh", "en"):
            with subtests.test(ascii(changed), language=language):
                found = facts(http, language, **changed)
                assert found["field"] == field and text in found["error"]


def test_a_name_that_is_still_missing_does_not_hide_the_facts(http: TestClient) -> None:
    assert facts(http, lora_name="")["rows"] == len(ROWS)
    refused = http.post("/training/start", json={"values": {**PARAMETERS, "lora_name": ""}})
    assert refused.status_code == 400 and refused.json()["field"] == "lora_name"


def test_data_that_has_only_bad_rows_is_previewed_with_their_reasons(http: TestClient, tmp_path: Path) -> None:
    (tmp_path / "datasets" / "bad.json").write_text('[{"instruction": "a", "output": ""}, 5]')
    for language, reasons in (("en", "output is empty; it is not an object"), ("zh", "output 为空; 不是带字段的对象")):
        body = {"values": {**PARAMETERS, "dataset": "bad", "lora_name": ""}, "seed": 1}
        shown = http.post(f"/training/preview?lang={language}", json=body).json()
        ((first, second),) = [file["bad"] for file in shown["files"]]
        assert f"{first['problem']}; {second['problem']}".startswith(reasons) and (first["row"], second["row"]) == (
            1,
            2,
        )
        assert shown["notes"] == [] and "examples" not in shown
    missing = http.post("/training/preview", json={"values": {**PARAMETERS, "dataset": "none"}})
    assert (missing.status_code, missing.json()["field"]) == (404, "dataset")


def test_a_run_is_started_followed_and_its_curves_are_sent_once(app: App, http: TestClient) -> None:
    name = http.post("/training/start", json={"values": {**PARAMETERS, "lora_name": "海"}}).json()["name"]
    app.training.runs.wait(name, SECONDS)
    body = http.get("/training/runs", params={"chart": name, "lang": "en"}).json()
    (run,) = body["runs"]
    assert (run["state"], run["update"], run["data"], run["error"]) == ("finished", UPDATES, "facts", None)
    assert body["drawn"] == UPDATES and body["curves"].count("<figure") == 2
    assert "curves" not in http.get("/training/runs", params={"chart": name, "drawn": UPDATES}).json()
    assert http.get("/training/runs/parameters", params={"name": name}).json()["values"]["lora_rank"] == 32
    assert http.post("/training/runs/delete", json={"name": name}).status_code == 200
    assert http.get("/training/runs").json()["runs"] == []


def test_a_run_that_failed_says_why_and_can_be_resumed(make_app: Callable[..., App], tmp_path: Path) -> None:
    app = training_app(make_app, tmp_path, model="fail model")
    http = client_of(app)
    values = {**PARAMETERS, "model": "fail model"}
    name = http.post("/training/start", json={"values": values}).json()["name"]
    app.training.runs.wait(name, SECONDS)
    (run,) = http.get("/training/runs?lang=zh").json()["runs"]
    assert (run["state"], run["resumable"]) == ("failed", True) and run["error"].startswith("训练失败")
    assert http.post("/training/runs/resume", json={"name": name}).status_code == 200
    assert app.training.runs.wait(name, SECONDS).state == "finished"


def test_actions_on_runs_that_do_not_exist_are_refused(http: TestClient, subtests: pytest.Subtests) -> None:
    for action in ("stop", "discard", "resume", "delete", "apply", "compare", "merge"):
        for name in ("none", "..", "a/b", ""):
            with subtests.test(f"{action} {name}"):
                body = {"name": name} | {"compare": {"question": "?"}, "merge": {"model": "m"}}.get(action, {})
                assert http.post(f"/training/runs/{action}", json=body).status_code == 404


def finished(app: App, http: TestClient) -> str:
    """Return the name of a run that has finished."""
    name: str = http.post("/training/start", json={"values": PARAMETERS}).json()["name"]
    app.training.runs.wait(name, SECONDS)
    (app.loras.catalog.folder / "a" / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 8}')
    return name


def test_a_lora_is_saved_as_a_zip_file_by_the_browser(
    app: App, http: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = finished(app, http)
    answer = http.get("/training/export/adapter", params={"name": name})
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert {"a/adapter_model.safetensors", "a/training_parameters.json"} <= set(archive.namelist())
    assert "a.zip" in answer.headers["content-disposition"]
    (app.loras.catalog.folder / "a" / "unreadable").symlink_to("/proc/self/mem")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    refused = http.get("/training/export/adapter?lang=en", params={"name": name})
    assert refused.status_code == 500 and "Input/output error" in refused.json()["error"]
    assert not list(tmp_path.glob("lora-*.zip"))


def test_a_lora_is_saved_as_a_gguf_file_for_a_gguf_model(app: App, http: TestClient, tmp_path: Path) -> None:
    add_run(app, "a", adapter="a")
    heads = {"llama.attention.head_count": 4, "llama.attention.head_count_kv": 2}
    weights = [Tensor(f"blk.0.attn_{part}.weight", (64, width)) for part, width in (("q", 64), ("v", 32))]
    (tmp_path / "models" / "m.gguf").write_bytes(gguf({**MODEL, **heads}, weights))
    peft(app.loras.catalog.folder / "a")
    chosen = {"name": "a", "model": "m.gguf"}
    assert http.get("/training/export/check", params=chosen).json() == {}
    answer = http.get("/training/export/gguf", params=chosen)
    assert answer.content[:4] == b"GGUF" and "a.gguf" in answer.headers["content-disposition"]
    assert http.get("/training/export/check", params={**chosen, "model": "model"}).status_code == 400


def test_a_merge_that_fails_says_why_and_another_one_waits_for_its_end(
    app: App, http: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, go = "a", threading.Event()
    add_run(app, name, adapter=name)
    peft(app.loras.catalog.folder / name)
    monkeypatch.setattr(app.training, "_record", lambda model: go.wait(SECONDS) and app.record(model))
    assert http.post("/training/runs/merge", json={"name": name, "model": "model"}).status_code == 200
    busy = http.post("/training/runs/merge?lang=en", json={"name": name, "model": "second"})
    assert busy.status_code == 409 and "merged into model" in busy.json()["error"]
    go.set()
    assert "model" in ended_merge(http)["error"]
    assert http.post("/training/runs/merge", json={"name": name, "model": "../x"}).status_code == 200
    assert "../x" in ended_merge(http)["error"]


def ended_merge(http: TestClient) -> dict[str, Any]:
    """Wait for the end of the merge, which fails, and return it."""
    until = time.monotonic() + SECONDS
    while (merge := http.get("/training/runs?lang=en").json()["merge"])["state"] == "running":
        assert time.monotonic() < until
    assert merge["state"] == "failed"
    found: dict[str, Any] = merge
    return found


def test_the_form_is_filled_with_the_parameters_of_a_lora(
    http: TestClient, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    peft(tmp_path / "loras" / "a")
    file = tmp_path / "loras" / "a" / "training_parameters.json"
    file.write_text('{"lora_rank": 24}')
    read = http.get("/training/parameters", params={"lora": "a"}).json()
    assert read["values"]["lora_rank"] == 24 and read["notes"] == []
    for content in (b"\xff", b"[]", b" " * 1_000_001):
        file.write_bytes(content)
        with subtests.test(content=ascii(content[:2])):
            assert http.get("/training/parameters", params={"lora": "a"}).status_code == 422
    file.unlink()
    assert http.get("/training/parameters", params={"lora": "a"}).status_code == 422
    assert http.get("/training/parameters", params={"lora": "none"}).status_code == 404


def test_parameters_are_read_from_files_of_the_original(http: TestClient) -> None:
    content = json.dumps({"lora_rank": 8, "warmup_steps": 100, "batch_size": 128, "micro_batch_size": 4, "nothing": 1})
    read = http.post("/training/parameters?lang=en", json={"content": content}).json()
    assert (read["values"]["lora_rank"], read["values"]["warmup_steps"]) == (8, 4)
    assert any("nothing" in note for note in read["notes"])
    for broken in ("", "[]", "{", "1", '{"\\ud800": 1}'):
        assert http.post("/training/parameters", json={"content": broken}).status_code == 422


def test_data_is_uploaded_without_replacing_any(http: TestClient, tmp_path: Path, subtests: pytest.Subtests) -> None:
    def upload(name: str, content: bytes) -> Any:
        return http.post("/training/upload", params={"name": name}, content=content)

    assert upload("新.csv", b"instruction,output\na,b\n").json()["name"] == "新.csv"
    assert upload("新.csv", b"instruction,output\na,b\n").json()["name"] == "新.csv"
    added = upload("新.csv", b"instruction,output\na,c\n").json()
    assert added["name"] == "新 (2).csv" and added["name"] in added["lists"]["datasets"]
    assert upload("../../x.txt", b"a").json()["name"] == "x.txt" and not (tmp_path / "x.txt").exists()
    for name in ("", "a", "a.exe", ".txt", "a\0.txt", "con.txt", "a" * 290 + ".txt"):
        with subtests.test(ascii(name)):
            assert upload(name, b"a").status_code == 422


def test_a_refused_upload_says_what_is_wrong_with_the_file(http: TestClient, subtests: pytest.Subtests) -> None:
    long = "长" * 65  # with the number of a second file of that name, it is too long
    assert http.post("/training/upload", params={"name": f"{long}.txt"}, content=b"a").status_code == 200
    for name, why in (
        ("<x>.json", "<x>.json was not added: its name cannot be used"),
        (f"{long}.txt", "its name cannot be used"),
        ("a.exe", "its name ends with none of .json"),
        ("a.parquet", "convert it first"),
    ):
        with subtests.test(name):
            refused = http.post("/training/upload", params={"name": name, "lang": "en"}, content=b"b")
            assert refused.status_code == 422 and why in refused.json()["error"]
    chinese = http.post("/training/upload", params={"name": "a:b.csv"}, content=b"b").json()["error"]
    assert chinese.startswith("未添加 a:b.csv：其文件名无法使用，请改为不含")


def test_an_upload_that_is_too_large_or_of_which_there_are_too_many_is_refused(
    http: TestClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.ui.training.upload.MAX_BYTES", 10)
    assert http.post("/training/upload", params={"name": "a.txt"}, content=b"x" * 11).status_code == 422
    assert http.post("/training/upload", params={"name": "a.txt"}, content=b"x" * 10).status_code == 200
    monkeypatch.setattr("modules.ui.training.upload._MOST_OF_ONE_NAME", 2)
    for content, status in ((b"second", 200), (b"third", 422)):
        assert http.post("/training/upload", params={"name": "a.txt"}, content=content).status_code == status
    assert {path.name for path in (tmp_path / "datasets").glob("a*")} == {"a.txt", "a (2).txt"}


def test_an_upload_that_the_disk_refuses_says_why(http: TestClient, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "datasets")
    found = facts(http)
    assert (found["field"], "facts" in found["error"]) == ("dataset", True)
    (tmp_path / "datasets").touch()  # no folder can be made of that name
    answer = http.post("/training/upload?lang=en", params={"name": "a.txt"}, content=b"x")
    assert answer.status_code == 500 and "File exists" in answer.json()["error"]


def test_only_the_owner_trains(make_app: Callable[..., App], tmp_path: Path, subtests: pytest.Subtests) -> None:
    http = client_of(training_app(make_app, tmp_path, "--multi-user"))
    posts = ("facts", "preview", "start", "upload", "parameters", "runs/stop", "runs/apply", "runs/compare")
    for method, paths in (("GET", ("form", "lists", "runs", "parameters?lora=a")), ("POST", posts)):
        for path in paths:
            with subtests.test(path):
                assert http.request(method, f"/training/{path}", json={}).status_code == 403


def test_a_queued_run_says_what_it_waits_for(app: App, http: TestClient) -> None:
    at_work = app.turns.queue({"en": "an evaluation", "zh": "评估"})
    name = http.post("/training/start", json={"values": PARAMETERS}).json()["name"]
    shown = [http.get(f"/training/runs?lang={language}").json()["runs"][0] for language in ("en", "zh")]
    assert [run["waiting"] for run in shown] == ["Waiting for an evaluation.", "正在等待评估结束。"]
    assert (shown[0]["state"], shown[0]["position"]) == ("queued", 1)
    for action, state in (("stop", "interrupted"), ("discard", "discarded")):
        assert http.post(f"/training/runs/{action}", json={"name": name}).json() == {}
        (run,) = http.get("/training/runs").json()["runs"]
        assert (run["state"], run["waiting"]) == (state, "")
    at_work.end()
