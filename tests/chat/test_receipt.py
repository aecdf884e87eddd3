"""The receipt of a reply says how it came about, and its parameters give the same reply again."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.catalog.catalog import Catalog
from modules.catalog.record import ModelRecord
from modules.chat.prompt import chat_prompt
from modules.chat.receipt import model_identity, parameters_again, receipt
from modules.chat.templates import ChatTemplates
from modules.core.errors import WebUIError
from modules.core.events import Done, Text
from modules.core.prompt import Prompt, Replacement
from modules.loaders import generation_settings
from modules.loaders.load_settings import Setting, resolve
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import AppliedLora, LoadedModel
from modules.runtime.model_manager import ModelManager
from tests.conftest import ECHO, LLAMA
from tests.support.template_table import CHATML
from tests.support.template_table import TEMPLATES as TEMPLATE_TABLE

TEMPLATES = ChatTemplates()
PROMPT = Prompt("one two three", 8, shorter=(Replacement(0, 4, ""),))
DONE = Done("stop", 2, 1, 5, 0.25, 1.5, 0, 77)


def record_of(folder: Path, template: str = CHATML) -> ModelRecord:
    files = {}
    for name in ("a-00001-of-00002.gguf", "a-00002-of-00002.gguf"):
        path = folder / name
        path.write_bytes(name.encode() * 50_000)
        os.utime(path, (1_700_000_000, 1_700_000_000))
        files[path] = path.stat()
    first = next(iter(files))
    return ModelRecord("a.gguf", first, "gguf", 12, quantization="Q4_1", chat_template=template, files=files)


@pytest.fixture
def model(tmp_path: Path) -> Iterator[LoadedModel]:
    manager = ModelManager()
    settings = resolve(ECHO, model={}, saved={}, flags={}, form={"n_ctx": 512})
    yield manager.load(LoadPlan(record_of(tmp_path), ECHO, settings))
    manager.unload()


def params(**raw: object) -> dict[str, Any]:
    return generation_settings.resolve(raw)


def test_a_receipt_says_how_a_reply_came_about(model: LoadedModel) -> None:
    model.loras = (AppliedLora("banana", 0.5, 1.25),)
    slip = receipt(TEMPLATES, model, PROMPT, params(top_k=4, max_new_tokens=9), DONE, now=5.0)
    assert json.loads(json.dumps(slip)) == slip
    assert (slip["time"], slip["loader"], slip["options"]) == (5.0, "echo", {"n_ctx": 512})
    assert slip["loras"] == [{"name": "banana", "weight": 0.5}]
    sha256 = hashlib.sha256(CHATML.encode()).hexdigest()
    assert slip["template"] == {"sha256": sha256, "ours": False, "name": "", "kwargs": {}, "notes": []}
    assert slip["parameters"]["top_k"] == 4 and slip["parameters"]["max_new_tokens"] == 9
    assert slip["seed"] == 77 and "seed" not in slip["parameters"]
    assert slip["shortened"] and slip["prompt_sha256"] == hashlib.sha256(b"two three").hexdigest()
    assert slip["tokens"] == {"prompt": 2, "cached": 1, "completion": 5}
    assert slip["seconds"] == {"prompt": 0.25, "decode": 1.5}
    drafted = receipt(
        TEMPLATES, model, PROMPT, params(), dataclasses.replace(DONE, drafted_tokens=6, accepted_tokens=4)
    )
    assert (drafted["tokens"]["drafted"], drafted["tokens"]["accepted"]) == (6, 4)
    assert slip["reason"] == "stop"
    assert len(slip["version"]) in (0, 40)


def test_a_receipt_tells_which_draft_model_there_was(model: LoadedModel, tmp_path: Path) -> None:
    assert "draft_model" not in receipt(TEMPLATES, model, PROMPT, params(), DONE)
    drafting = copy.copy(model)
    drafting.settings = {**model.settings, "model_draft": Setting("tiny/draft.gguf", "form")}
    assert "draft_model" not in receipt(TEMPLATES, drafting, PROMPT, params(), DONE), "it was deleted"
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "draft.gguf").write_bytes(b"draft")
    draft = receipt(TEMPLATES, drafting, PROMPT, params(), DONE)["draft_model"]
    assert (draft["name"], draft["size"], len(draft["hash"])) == ("tiny/draft.gguf", 5, 32)
    (tmp_path / "tiny" / "draft.gguf").write_bytes(b"other")
    assert receipt(TEMPLATES, drafting, PROMPT, params(), DONE)["draft_model"]["hash"] != draft["hash"]


def test_parameters_that_are_off_are_not_listed(model: LoadedModel) -> None:
    off = params(temperature=1, min_p=0, seed=3)
    assert receipt(TEMPLATES, model, PROMPT, off, DONE)["parameters"] == {}


def test_a_receipt_tells_how_messages_were_adapted_to_the_template(model: LoadedModel) -> None:
    strict = copy.copy(model)
    strict.record = dataclasses.replace(model.record, chat_template=TEMPLATE_TABLE["questions and answers only"])
    (note,) = receipt(TEMPLATES, strict, PROMPT, params(), DONE)["template"]["notes"]
    assert "successive messages" in note["en"] and "合并" in note["zh"]
    strict.record = dataclasses.replace(model.record, chat_template="")
    assert receipt(TEMPLATES, strict, PROMPT, params(), DONE)["template"]["ours"]


def test_the_same_parameters_come_from_a_receipt(model: LoadedModel, subtests: pytest.Subtests) -> None:
    used = [
        params(),
        params(temperature=0.7, top_p=0.9, custom_stopping_strings='"\\n", "You:"', dry_multiplier=0.8),
        params(auto_max_new_tokens=True, min_p=0, mirostat_mode=2),
        generation_settings.resolve({}, ["\nYou:"], None, {"5": -100, "7": 1.5}),
    ]
    for chosen in used:
        with subtests.test(chosen):
            slip = json.loads(json.dumps(receipt(TEMPLATES, model, PROMPT, chosen, DONE)))
            again = parameters_again(slip)
            assert again.pop("max_cached_tokens") == 1
            assert {**again, "stop": set(again["stop"])} == {**chosen, "seed": 77, "stop": set(chosen["stop"])}


DAMAGED: list[Any] = [
    None,
    [],
    {},
    {"parameters": []},
    {"parameters": {"nonsense": 1}},
    {"parameters": {"top_k": "many"}},
    {"parameters": {"seed": -5}, "seed": True},
    {"seed": -1},
    {"seed": "7"},
    {"stop": [3]},
    {"stop": "x"},
    {"logit_bias": [3]},
    {"logit_bias": [[1, "x"]]},
    {"tokens": {"cached": -1}},
    {"tokens": {}},
]


def test_a_damaged_receipt_is_refused(subtests: pytest.Subtests) -> None:
    good = {"parameters": {}, "stop": [], "logit_bias": [], "tokens": {"cached": 0}, "seed": 1}
    assert parameters_again(good)["seed"] == 1
    for damage in DAMAGED:
        with subtests.test(damage), pytest.raises(WebUIError):
            parameters_again({**good, **damage} if damage and isinstance(damage, dict) else damage)


def test_a_model_is_identified_by_samples_of_its_files(tmp_path: Path) -> None:
    identity = model_identity(record_of(tmp_path))
    assert identity["files"][0] == {"name": "a-00001-of-00002.gguf", "size": 1_050_000, "modified": 1_700_000_000}
    assert len(identity["hash"]) == 32 and "samples" in identity["hash_kind"]
    changed = record_of(tmp_path)
    first = next(iter(changed.files))
    first.write_bytes(b"x" * 1_050_000)
    changed = dataclasses.replace(changed, files={path: path.stat() for path in changed.files})
    assert model_identity(changed)["hash"] not in ("", identity["hash"])


def test_a_model_whose_files_are_gone_has_no_hash(tmp_path: Path) -> None:
    record = record_of(tmp_path)
    for path in record.files:
        path.unlink()
    assert model_identity(record)["hash"] == ""
    assert model_identity(dataclasses.replace(record, files={}))["hash"] == ""


def test_the_generation_of_a_receipt_is_repeated(model: LoadedModel) -> None:
    prompt = chat_prompt(TEMPLATES, model, [{"role": "user", "content": "hello"}], params()).prompt
    *_, first = model.generate(prompt, params())
    assert isinstance(first, Done)
    again = parameters_again(receipt(TEMPLATES, model, prompt, params(), first))
    *_, second = model.generate(prompt, again)
    assert second == first


def test_a_reply_of_a_real_model_comes_again_from_its_receipt_even_after_a_restart(models_folder: Path) -> None:
    manager = ModelManager()
    record = Catalog(models_folder).models()[0]
    form = {"n_ctx": 512, "threads": 1, "threads_batch": 1}
    plan = LoadPlan(record, LLAMA, resolve(LLAMA, model=record.defaults, saved={}, flags={}, form=form))
    question = [{"role": "user", "content": "Write a sentence about the moon."}]

    def reply(model: LoadedModel, params: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        prompt = chat_prompt(TEMPLATES, model, question, params).prompt
        *texts, done = model.generate(prompt, params)
        assert isinstance(done, Done)
        text = "".join(event.text for event in texts if isinstance(event, Text))
        return text, receipt(TEMPLATES, model, prompt, params, done)

    try:
        model = manager.load(plan)
        text, first = reply(model, params(temperature=1, max_new_tokens=40))
        list(model.generate(Prompt("Something else in between. " * 20), params(max_new_tokens=3)))
        for restart in (False, True):
            model = manager.load(plan) if restart else model
            repeated, second = reply(model, parameters_again(json.loads(json.dumps(first))))
            assert repeated == text
            assert {**second, "time": 0, "seconds": 0} == {**first, "time": 0, "seconds": 0}
    finally:
        manager.unload()
