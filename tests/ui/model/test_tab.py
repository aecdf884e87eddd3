"""Event handlers of the Model page, called as any client can call them: each is a public endpoint, even if hidden."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.core.rpc_errors import NodeInUse
from modules.runtime.loaded_model import AppliedLora
from modules.runtime.node_memory import NodeMemory
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.model.tab import ModelTab
from tests.conftest import worker_pids
from tests.support.downloading import until
from tests.support.page_parts import followers, model_tab, page_parts
from tests.ui.test_ui import last

gr = gradio()
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
MakeApp = Callable[..., App]
INVALID_NAMES: list[object] = [
    None,
    "",
    5,
    True,
    ["a"],
    {"a": 1},
    "../../etc/passwd",
    "/etc/passwd",
    "no such model",
    "\0",
]


@pytest.fixture
def make_tab(smollm2: Path, tmp_path: Path, make_app: MakeApp) -> Callable[..., Any]:
    (tmp_path / "models" / NAME).symlink_to(smollm2)

    def make(*arguments: str) -> Any:
        return model_tab(make_app(*arguments))

    return make


@pytest.fixture
def tab(make_tab: Callable[..., Any]) -> Any:
    return make_tab()


def form(tab: Any, model: object = NAME, loader: object = "llama.cpp", **changes: object) -> dict[Any, object]:
    chosen = tab.show(NAME)
    hidden = {key: value for key, value in chosen.items() if key in (tab.options.baseline, tab.options.fitted_n_ctx)}
    values = {tab.widgets[key]: value for key, value in (chosen[tab.options.baseline]["values"] | changes).items()}
    return {tab.model: model, tab.loader: loader, **hidden, **values}


def event(data: object) -> Any:
    return gr.EventData(None, data)


def saved(tab: Any) -> object:
    return tab.app.model_settings.get(NAME)


def test_saved_settings_are_shown_when_the_model_is_selected_again(tab: Any) -> None:
    updates = tab.save_settings(form(tab, n_ctx=512, mlock=True))
    assert "Saved the settings" in updates[tab.status] and updates[tab.options.baseline]["values"]["n_ctx"] == 512
    chosen = tab.show(NAME)
    assert (chosen[tab.widgets["n_ctx"]], chosen[tab.widgets["mlock"]]) == (512, True)


def test_what_a_page_shows_is_loaded_and_saved_although_another_page_has_saved_other_values(tab: Any) -> None:
    shown = form(tab)
    tab.save_settings(form(tab, n_ctx=512, mlock=True))
    assert {tab.plan(shown).settings[key].value for key in ("n_ctx", "mlock")} == {8192, False}
    tab.save_settings(shown)
    assert saved(tab) == {"loader": "llama.cpp"}


def test_the_form_of_another_model_is_ignored(tab: Any, tmp_path: Path, smollm2: Path) -> None:
    """Until the browser has received the form of the selected model, it sends that of the previous one."""
    (tmp_path / "models" / "other.gguf").symlink_to(smollm2)
    tab.save_settings({**form(tab, n_ctx=512, mlock=True), tab.model: "other.gguf"})
    assert tab.app.model_settings.get("other.gguf") == {"loader": "llama.cpp"}
    stale = {**form(tab, NAME, "AutoAWQ", n_ctx=512), tab.model: "other.gguf"}
    plan = tab.plan(stale)
    assert (plan.loader.name, plan.settings["n_ctx"].value) == ("llama.cpp", 8192)


def test_an_empty_field_is_invalid(tab: Any) -> None:
    updates = asyncio.run(tab.explain(form(tab, n_ctx=None)))
    assert "Enter a whole number from 0 to 8192 (this model&#x27;s limit)." in updates[tab.options.marks]


def test_a_context_fitted_to_memory_is_not_saved_as_the_users_choice(tab: Any) -> None:
    tab.save_settings(form(tab, n_ctx=2048, threads=2))
    tab.app.memory.available_memory = lambda: 200_000_000
    filled = tab.restore_defaults({tab.model: NAME})
    assert 0 < filled[tab.options.fitted_n_ctx] == filled[tab.widgets["n_ctx"]] < 8192
    updates = tab.save_settings({**form(tab), **filled})
    assert tab.app.model_settings.get(NAME) == {"loader": "llama.cpp"}
    tab.app.memory.available_memory = lambda: 180_000_000
    unedited = {**form(tab), **filled, tab.options.baseline: updates[tab.options.baseline]}
    assert tab.plan(unedited).settings["n_ctx"].source == "memory"
    tab.save_settings({**unedited, tab.widgets["n_ctx"]: 8192})  # the user enters the larger value again
    assert tab.app.model_settings.get(NAME)["n_ctx"] == 8192


def is_unchanged(updates: dict[Any, Any]) -> bool:
    """Return whether a handler changes nothing. Gradio would treat an empty result as an error."""
    return bool(updates) and all(update == gr.skip() for update in updates.values())


def test_nothing_is_saved_for_an_invalid_model(tab: Any, subtests: pytest.Subtests) -> None:
    for model in INVALID_NAMES:
        with subtests.test(model=model):
            assert 'role="alert"' in tab.save_settings(form(tab, model))[tab.status]
            assert not tab.app.model_settings.path.exists()


@pytest.mark.parametrize(
    ("loader", "changes", "message"),
    [
        ("no such loader", {}, "no loader"),
        (["llama.cpp"], {}, "no loader"),
        ("AutoAWQ", {}, "cannot load gguf"),
        ("llama.cpp", {"n_ctx": "many"}, "n_ctx"),
        ("llama.cpp", {"tensor_split": "30,,70"}, "tensor_split"),
        ("llama.cpp", {"mlock": {"a": 1}}, "mlock"),
    ],
)
def test_settings_that_cannot_be_loaded_are_not_saved(
    tab: Any, loader: object, changes: dict[str, object], message: str
) -> None:
    html = tab.save_settings(form(tab, NAME, loader, **changes))[tab.status]
    assert 'role="alert"' in html and message in html
    assert not tab.app.model_settings.path.exists()


def test_an_invalid_value_is_reported_at_its_field(tab: Any) -> None:
    updates = asyncio.run(tab.explain(form(tab, tensor_split="30,,70")))
    assert "&quot;tensor_split&quot;: &quot;Enter a text such as" in updates[tab.options.marks]
    assert "Enter a" not in asyncio.run(tab.explain(form(tab)))[tab.options.marks]


def test_the_page_cannot_allow_remote_code(tab: Any) -> None:
    assert tab.widgets["trust_remote_code"].interactive is False
    with pytest.raises(Exception, match="cannot load gguf"):  # the loaders with this option load other formats
        tab.plan(form(tab, NAME, "Transformers", trust_remote_code=True))


@pytest.mark.parametrize("data", [{}, {"key": None}, {"key": "n_ctx; rm"}, {"key": ["n_ctx"]}, {"key": {}}])
def test_only_existing_options_are_reset(tab: Any, data: object) -> None:
    assert is_unchanged(tab.set_option(NAME, event(data)))
    assert tab.set_option(NAME, event({"key": "threads"})) == {tab.widgets["threads"]: 0}
    assert tab.set_option(NAME, event({"key": "n_ctx"})) == {tab.widgets["n_ctx"]: 8192, tab.options.fitted_n_ctx: 0}


INVALID_VALUES: list[object] = [[], {}, "many", -1, 1e99, True, "4096; rm"]


def test_a_field_is_set_to_valid_values_only(tab: Any, subtests: pytest.Subtests) -> None:
    for value in INVALID_VALUES:
        with subtests.test(value=value):
            assert is_unchanged(tab.set_option(NAME, event({"key": "n_ctx", "value": value})))
            assert tab.set_option(NAME, event({"key": "n_ctx", "value": "4096"})) == {tab.widgets["n_ctx"]: 4096}


def test_nothing_is_reset_for_an_invalid_model(tab: Any, subtests: pytest.Subtests) -> None:
    for model in INVALID_NAMES:
        with subtests.test(model=model):
            assert is_unchanged(tab.set_option(model, event({"key": "n_ctx"})))
            shown = tab.restore_defaults({tab.model: model})
            assert all(not isinstance(value, (int, str)) for value in shown.values())  # no widget gets a value


INVALID_CHANGES: list[object] = [
    None,
    5,
    [],
    {"no such option": 1},
    {"n_ctx": "many"},
    {"n_ctx": -1},
    {"cache_4bit": {}},
]


def test_a_remedy_sets_valid_values_only(tab: Any, subtests: pytest.Subtests) -> None:
    for change in INVALID_CHANGES:
        with subtests.test(change=change):
            assert is_unchanged(tab.apply_remedy(event({"change": change})))
            assert tab.apply_remedy(event({"change": {"n_ctx": 512}})) == {tab.widgets["n_ctx"]: 512}


def test_autoload_loads_no_invalid_model(tab: Any, subtests: pytest.Subtests) -> None:
    for model in INVALID_NAMES:
        with subtests.test(model=model):
            updates = last(tab.load_picked({**form(tab, model), tab.autoload: True}))
            assert tab.app.models.status.state == "empty"
            assert tab.status in updates


def test_autoload_loads_a_selected_model_once_if_it_is_enabled(tab: Any) -> None:
    last(tab.load_picked({**form(tab, n_ctx=512), tab.autoload: False}))
    assert tab.app.models.status.state == "empty"
    last(tab.load_picked({**form(tab, n_ctx=512), tab.autoload: True}))
    version = tab.app.models.status.version
    assert tab.app.models.status.state == "ready"
    last(tab.load_picked({**form(tab, n_ctx=512), tab.autoload: True}))
    assert tab.app.models.status.version == version


def test_a_missing_models_folder_is_reported(tab: Any, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.rename(tmp_path / "elsewhere")
    assert str(folder) in tab.open_page()[tab.facts]
    updates = tab.list_models(NAME)
    assert "No such file" in updates[tab.facts] and updates[tab.model]["value"] is None
    folder.touch()
    assert "Not a directory" in tab.list_models(NAME)[tab.facts]
    folder.unlink()
    folder.mkdir()
    assert "no model in models/" in tab.list_models(NAME)[tab.facts]
    (tmp_path / "elsewhere" / NAME).rename(folder / NAME)
    assert tab.list_models(None)[tab.model]["value"] == NAME, "a model is selected"
    assert "Select a model" in tab.show(None)[tab.facts]
    assert tab.list_models(NAME).keys() == {tab.model, tab.models.part}, "the facts stay"


def test_an_existing_model_is_selected_when_an_invalid_one_was(tab: Any, subtests: pytest.Subtests) -> None:
    for name in INVALID_NAMES:
        with subtests.test(name=name):
            updates = tab.list_models(name)
            assert updates[tab.model]["value"] == NAME and f'data-model="{NAME}"' in updates[tab.facts]


def test_a_moved_model_stays_selected_under_its_new_name(tab: Any, tmp_path: Path, smollm2: Path) -> None:
    (tmp_path / "models" / "moved.gguf").symlink_to(smollm2)
    assert tab.list_models("gone.gguf", "moved.gguf")[tab.model]["value"] == "moved.gguf"
    assert "value" not in tab.list_models(NAME, "moved.gguf")[tab.model], "the selection is kept"


def test_an_internal_error_is_reported_when_models_are_listed(tab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(tab.app.catalog, "models", fail)
    assert "Internal error" in tab.open_page()[tab.facts]
    assert "Internal error" in tab.list_models(NAME)[tab.status]


def test_selecting_the_same_model_again_keeps_its_form(tab: Any, tmp_path: Path, smollm2: Path) -> None:
    """Gradio also sends "input" if a menu was only opened and closed."""
    updates = tab.pick(form(tab, n_ctx=512))
    assert set(updates) == {tab.facts, tab.newly_picked} and updates[tab.newly_picked] is False
    last(tab.load_picked({**form(tab), tab.autoload: True, tab.newly_picked: False}))
    assert tab.app.models.status.state == "empty"
    (tmp_path / "models" / "other.gguf").symlink_to(smollm2)
    updates = tab.pick(form(tab, "other.gguf", n_ctx=512))
    assert updates[tab.newly_picked] is True and updates[tab.widgets["n_ctx"]] == 8192


def test_a_model_can_be_selected_again_after_a_damaged_one(tab: Any, tmp_path: Path) -> None:
    (tmp_path / "models" / "damaged.gguf").write_bytes(b"GGUF")
    updates = tab.pick(form(tab, "damaged.gguf"))
    assert 'role="alert"' in updates[tab.facts] and "data-without-options" in updates[tab.facts]
    assert "data-without-options" not in tab.pick(form(tab))[tab.facts]
    assert tab.pick(form(tab) | updates | {tab.model: NAME})[tab.newly_picked] is True


def test_unload_cancels_many_pending_loads_at_once(tab: Any) -> None:
    """There are more loads than threads in the pool that they wait in."""

    def suspend_worker() -> None:
        while not worker_pids():
            time.sleep(0.005)
        os.kill(worker_pids().pop(), signal.SIGSTOP)

    async def press() -> None:
        suspension = asyncio.ensure_future(asyncio.to_thread(suspend_worker))
        pages = [tab.start(form(tab, n_ctx=512)) for _ in range(12)]
        await asyncio.gather(*(anext(page) for page in pages))
        await suspension
        await asyncio.wait_for(tab.unload_model(), 5)
        assert "No model is loaded" in tab.refresh_view(0)[tab.status]
        for page in pages:
            assert "No model is loaded" in [updates async for updates in page][-1][tab.status]

    asyncio.run(press())


def test_the_error_of_a_load_is_not_hidden_by_the_previous_unload(tab: Any) -> None:
    last(tab.start(form(tab, n_ctx=512)))
    version = tab.app.models.status.version
    asyncio.run(tab.unload_model())
    refused = last(tab.start(form(tab, n_ctx=-5)))
    assert "n_ctx" in refused[tab.status]
    assert refused[tab._followers.version] > version
    skipped = tab.refresh_view(refused[tab._followers.version])
    assert skipped[tab.status] == gr.skip()


def test_what_happens_to_other_models_and_to_loras_leaves_messages_and_choices_alone(tab: Any) -> None:
    """The message that settings were saved, a question about code, LoRAs picked and the longest prompt stay."""
    last(tab.start(form(tab, n_ctx=512)))
    models = tab.app.models
    shown, truncation = models.status.version, tab._followers.truncation
    models._table.publish()  # as when another model is loaded by a request
    refreshed = tab.refresh_view(shown)
    assert refreshed.pop(tab._followers.version) == models.status.version > shown
    assert all(update == gr.skip() for update in refreshed.values())

    status = models._table.status
    models._table.status = replace(status, loras=(AppliedLora("cat", 1.0, 0.5),), version=shown + 5).after(status)
    refreshed = tab.refresh_view(shown)
    assert refreshed[tab.status] == refreshed[truncation] == gr.skip(), "another page has applied a LoRA"
    assert refreshed[tab.loras.names]["value"] == ["cat"]

    asyncio.run(tab.unload_model())
    for version in (shown, models.status.version + 50):
        assert "freed" in tab.refresh_view(version)[tab.status], "also on a page of the server before this one"


def test_a_load_is_cancelled_while_it_is_planned(tab: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, unloaded = tab.form.plan, threading.Event()

    def plan_slowly(values: object) -> object:
        assert unloaded.wait(10)
        return plan(values)

    async def press() -> Any:
        monkeypatch.setattr(tab.form, "plan", plan_slowly)
        loading = asyncio.ensure_future(anext(tab.start(form(tab, n_ctx=512))))
        await asyncio.sleep(0)
        await tab.unload_model()
        unloaded.set()
        return await loading

    assert "No model is loaded" in asyncio.run(press())[tab.status]
    assert tab.app.models.status.state == "empty"


def test_a_load_continues_after_its_page_is_closed_and_can_be_cancelled_without_a_logged_error(
    tab: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def close_the_page() -> None:
        page = tab.start(form(tab, n_ctx=512))
        await anext(page)
        await page.aclose()
        await asyncio.to_thread(until, lambda: tab.app.models.status.state == "loading")
        await asyncio.to_thread(tab.app.models.unload)
        await asyncio.sleep(0.1)

    asyncio.run(close_the_page())
    gc.collect()  # asyncio logs an unretrieved error when its future is garbage-collected
    assert not caplog.records


def test_a_model_that_crashed_is_not_autoloaded(tab: Any) -> None:
    tab.app.models.crashed.add(NAME)
    updates = last(tab.load_picked({**form(tab), tab.autoload: True}))
    assert "Press Load" in updates[tab.status] and tab.app.models.status.state == "empty"
    last(tab.start(form(tab, n_ctx=512)))
    assert NAME not in tab.app.models.crashed


@pytest.mark.parametrize("payload", [None, "true", 1, [], {}])
def test_autoload_is_enabled_only_by_true(tab: Any, payload: object) -> None:
    tab.set_autoload(payload)
    assert tab.app.settings.current.autoload_model is False
    tab.set_autoload(True)
    assert tab.app.settings.current.autoload_model is True


def test_multi_user_mode_refuses_requests_that_bypass_the_page(make_tab: Callable[..., Any]) -> None:
    tab = make_tab("--multi-user")
    refusals = [
        last(tab.start(form(tab))),
        last(tab.load_picked({**form(tab), tab.autoload: True})),
        asyncio.run(tab.unload_model()),
        tab.save_settings(form(tab)),
        tab.set_autoload(True),
    ]
    assert all("only its owner" in updates[tab.status] for updates in refusals)
    assert tab.app.models.status.state == "empty"
    assert not tab.app.model_settings.path.exists() and tab.app.settings.current.autoload_model is False


def test_guests_do_not_see_the_addresses_of_rpc_nodes(make_tab: Callable[..., Any]) -> None:
    for flags, sees in (((), True), (("--multi-user",), False)):
        tab = make_tab("--rpc", "node-a:50052", "--n-gpu-layers", "-1", *flags)
        tab.app.memory.node_memory = NodeMemory(lambda nodes: {node: NodeInUse(node) for node in nodes})
        explained = asyncio.run(tab.explain(form(tab)))
        for part, updates in (("form", tab.show(NAME)), ("explanation", explained)):
            assert ("node-a" in str(updates)) is sees, part
        assert sees or "RPC 1" in explained[tab.memory]
        assert tab.plan(form(tab)).nodes == ("node-a:50052",), "the model is loaded with them"


def test_guests_do_not_see_the_folders_of_the_owner(make_tab: Callable[..., Any], tmp_path: Path) -> None:
    template = tmp_path / "mine.jinja"
    template.write_text("{{ messages[0].content }}")
    for flags, sees in (((), True), (("--multi-user",), False)):
        tab = make_tab("--chat-template-file", str(template), *flags)
        explained = str(asyncio.run(tab.explain(form(tab))))
        assert (str(tmp_path) in explained) is sees and "template mine.jinja" in explained
        assert (str(tmp_path) in str(tab.list_models(None))) is sees


def test_a_form_that_is_filled_in_may_still_show_another_models_loader(make_app: MakeApp) -> None:
    """A text box reports the value that it is given, maybe before the menu of loaders, and Gradio would refuse that."""
    with page_parts() as blocks:
        loader = ModelTab(Page(make_app(), "en"), followers()).options.loader
    changes = [
        function
        for function in blocks.fns.values()
        if loader in function.inputs and function.fn and any(event == "change" for _, event in function.targets)
    ]
    assert changes
    assert not any(function.preprocess for function in changes)


def test_options_that_only_files_set_do_not_reach_the_browser(make_tab: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "models" / "a.server.yaml").write_text("url: http://h\nkey_env: SECRET_NAME\nca: authority.pem\n")
    shown = make_tab("--engine-args", "--seed 3", "--vllm-program", "/opt/vllm").show("a.server.yaml")
    assert not {"SECRET_NAME", "authority.pem", "--seed 3", "/opt/vllm"} & set(map(str, _leaves(shown)))


def _leaves(value: object) -> list[object]:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else None
    return [value] if parts is None else [leaf for part in parts for leaf in _leaves(part)]
