"""The list of models: what its rows say, and what the browser may send."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.ui.gradio_import import gradio
from modules.ui.model.model_list import fit_by_size
from tests.support.checkpoint_files import checkpoint, put
from tests.support.gguf_files import gguf
from tests.support.page_parts import model_tab
from tests.ui.test_ui import last

gr = gradio()
MakeApp = Callable[..., App]
GB = 10**9


def event(**data: object) -> Any:
    return gr.EventData(None, data)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    put(folder / "b-Q4_K_M.gguf", gguf())
    put(folder / "sub" / "a.gguf", gguf())
    return folder


@pytest.fixture
def tab(models: Path, make_app: MakeApp) -> Any:
    return model_tab(make_app())


def listed(tab: Any, updates: Any = None) -> dict[str, Any]:
    value: dict[str, Any] = (tab.list_models(None) if updates is None else updates)[tab.models.part]
    return value


def names(tab: Any, updates: Any = None) -> list[str]:
    return [row["name"] for row in listed(tab, updates)["models"]]


def test_a_row_of_a_model_on_a_server_has_its_address(make_app: MakeApp, tmp_path: Path) -> None:
    put(tmp_path / "models" / "a.server.yaml", b"url: http://10.0.0.5:8000\n")
    value = listed(model_tab(make_app()))
    (row,) = value["models"]
    assert (row["name"], row["size"], row["quantization"]) == ("a.server.yaml", "", "10.0.0.5:8000")
    assert value["summary"] == "1 model"


def test_a_row_has_the_name_size_quantization_and_folder_of_a_model(tab: Any, models: Path) -> None:
    tab.app.memory.available_memory = lambda: 8 * GB
    row = listed(tab)["models"][1]
    assert row == {
        "name": "sub/a.gguf",
        "size": f"{(models / 'sub' / 'a.gguf').stat().st_size / 1000:.2f} KB",
        "quantization": "Q4_K_M",
        "problem": "",
        "note": "same as b-Q4_K_M.gguf",
        "verdict": "fits",
        "fit": "Fits",
        "folder": str(models / "sub"),
    }


def test_a_damaged_model_says_so_instead_of_whether_it_fits(tab: Any, models: Path) -> None:
    put(models / "broken.gguf", b"GGUF")
    row = next(row for row in listed(tab)["models"] if row["name"] == "broken.gguf")
    assert (row["problem"], row["verdict"]) == ("incomplete", "")


def test_weights_are_compared_with_the_memory_that_is_free() -> None:
    assert [fit_by_size(size, 10 * GB) for size in (9 * GB, 9 * GB + 1, 10 * GB + 1)] == ["fits", "tight", "short"]
    assert fit_by_size(GB, 0) == fit_by_size(0, GB) == ""


def test_the_total_size_is_shown(tab: Any, models: Path) -> None:
    assert listed(tab)["summary"].startswith("2 models · ")
    (models / "sub" / "a.gguf").unlink()
    assert listed(tab)["summary"].startswith("1 model · ")


def test_a_picked_row_shows_its_settings(tab: Any) -> None:
    updates = tab.actions.pick("sub/a.gguf", {})
    assert updates[tab.model] == "sub/a.gguf" and updates[tab.newly_picked] is True
    assert updates[tab.options.baseline]["model"] == "sub/a.gguf"
    again = tab.actions.pick("sub/a.gguf", updates[tab.options.baseline])
    assert again[tab.newly_picked] is False and tab.options.baseline not in again, "the form stays as it is"


INVALID: list[object] = [None, {}, 5, {"name": None}, {"name": ["sub/a.gguf"]}, {"name": "../x"}, {"name": ""}]


def test_nothing_is_picked_loaded_or_deleted_by_an_invalid_name(tab: Any, subtests: pytest.Subtests) -> None:
    for data in INVALID:
        with subtests.test(data=data):
            sent = gr.EventData(None, data)
            picked: Any = {tab.model: "sub/a.gguf", tab.options.baseline: {}}
            for action in (tab.actions.delete, tab.actions.restore):
                with pytest.raises(Exception, match=r"no model|bin"):
                    action(picked, sent)
            with pytest.raises(Exception, match=r"no model|Select a model"):
                tab.actions.pick(data["name"] if isinstance(data, dict) and data else data, {})
            with pytest.raises(Exception, match=r"no model|Select a model"):
                last(tab.actions.load(picked, sent))
    assert len(names(tab)) == 2 and tab.app.models.status.state == "empty"


def test_a_deleted_model_can_be_restored(tab: Any, models: Path) -> None:
    updates = tab.actions.delete("sub/a.gguf", event(name="sub/a.gguf"))
    value = listed(tab, updates)
    assert names(tab, updates) == ["b-Q4_K_M.gguf"] and updates[tab.model]["value"] == "b-Q4_K_M.gguf"
    assert value["undo"]["text"] == "Deleted sub/a.gguf." and value["undo"]["id"] == value["bin"][0]["id"]
    assert value["bin_summary"].startswith("Recently deleted (1 · ")
    restored = tab.actions.restore("b-Q4_K_M.gguf", event(id=value["undo"]["id"]))
    assert names(tab, restored) == ["b-Q4_K_M.gguf", "sub/a.gguf"]
    assert listed(tab, restored)["bin"] == [] and "Restored sub/a.gguf" in restored[tab.status]


def test_a_deletion_says_how_many_models_go_with_it(tab: Any, models: Path) -> None:
    checkpoint(models / "llama")
    put(models / "llama" / "extra.gguf", gguf())
    updates = tab.actions.delete(None, event(name="llama"))
    assert listed(tab, updates)["undo"]["text"] == "Deleted llama and 1 more in its folder."


def test_emptying_the_bin_frees_its_space(tab: Any, models: Path) -> None:
    tab.actions.delete(None, event(name="sub/a.gguf"))
    updates = tab.actions.empty_bin(None)
    assert listed(tab, updates)["bin"] == [] and "Emptied the bin" in updates[tab.status]
    assert list((models / ".trash").iterdir()) == []


def test_guests_see_the_models_but_not_the_bin(models: Path, make_app: MakeApp) -> None:
    app = make_app("--multi-user")
    app.deletion.delete("sub/a.gguf")
    value = listed(model_tab(app))
    assert [row["name"] for row in value["models"]] == ["b-Q4_K_M.gguf"]
    assert value["bin"] == [] and value["owner"] is False


def test_five_hundred_models_are_listed_quickly(tab: Any, models: Path) -> None:
    for number in range(500):
        os.link(models / "b-Q4_K_M.gguf", models / f"m{number}.gguf")
    tab.list_models(None)
    began = time.process_time()
    assert len(names(tab)) == 502
    assert time.process_time() - began < 2.0


def test_the_model_of_a_row_is_loaded_with_its_saved_settings(tab: Any, models: Path, tiny: Path) -> None:
    (models / "tiny.gguf").symlink_to(tiny)
    tab.app.model_settings.save("tiny.gguf", "llama.cpp", {"n_ctx": 256}, ["n_ctx"])

    async def load() -> None:
        values: Any = {tab.model: "sub/a.gguf", tab.options.baseline: {"model": "sub/a.gguf", "values": {}}}
        async for _ in tab.actions.load(values, event(name="tiny.gguf")):
            pass

    asyncio.run(load())
    assert (tab.app.models.status.name, tab.app.models.status.context_length) == ("tiny.gguf", 256)


def test_an_incomplete_list_says_that_models_are_still_looked_for(tab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert listed(tab)["scanning"] == 0
    monkeypatch.setattr("modules.catalog.catalog.Catalog.is_scanning", True)
    assert 0 < listed(tab)["scanning"] < listed(tab)["scanning"]
