"""Train a LoRA on the Training page: the form, the run that goes on without the page, and its LoRA in the chat."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from modules.training.run import RunFacts, RunFolder, RunView
from tests.browser.conftest import Server, Window
from tests.support.lora_files import peft

ROWS = [{"instruction": f"What color is house {number}?", "output": f"It is green, {number}."} for number in range(20)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, tiny: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("training")
    for name in ("models", "datasets"):
        (folder / name).mkdir()
    (folder / "models" / "tiny").symlink_to(tiny_folder)
    (folder / "models" / "tiny.gguf").symlink_to(tiny)
    (folder / "datasets" / "colors.json").write_text(json.dumps(ROWS))
    (folder / "settings.yaml").touch()
    folders = [part for name in ("dataset", "run", "lora") for part in (f"--{name}-dir", str(folder / f"{name}s"))]
    running = Server(folder, "--settings", str(folder / "settings.yaml"), *folders)
    yield running
    running.stop()


def fill(page: Page, name: str, **parameters: str) -> None:
    page.evaluate("location.hash = 'training'")
    page.locator("#tx-t-dataset").select_option("colors.json")
    page.locator("#tx-t-model").select_option("tiny")
    for key, value in {"lora_name": name, **parameters}.items():
        page.locator(f"#tx-t-{key}").fill(value)


def test_a_run_goes_on_while_the_page_is_loaded_again_and_its_lora_is_applied(
    chromium: Browser, server: Server
) -> None:
    with contextlib.closing(Window(chromium, server.url, "zh", (1440, 900))) as window:
        page = window.page
        fill(page, "颜色", lora_rank="4", batch_size="4")
        page.locator("#tx-t-start").click()
        live = page.locator(".tx-t-live")
        expect(live).to_contain_text("正在训练", timeout=60_000)
        expect(live.locator("svg").first).to_be_visible()
        page.reload()
        expect(page.locator("#tx-t-lora_name")).to_have_value("颜色")
        run = page.locator('[data-run="颜色"]')
        expect(run).to_have_attribute("data-state", "finished", timeout=60_000)
        expect(run).to_contain_text("更新 15/15")
        run.get_by_role("button", name="应用并聊天").click()
        expect(page).to_have_url(re.compile("#chat$"))
        window.loaded(60)
        window.tab("模型")
        expect(page.locator("#tx-lora-status")).to_contain_text("颜色")


def test_the_form_says_what_is_wrong_and_fits_itself_to_the_data(chromium: Browser, server: Server) -> None:
    with contextlib.closing(Window(chromium, server.url, "en", (390, 844))) as window:
        page = window.page
        fill(page, "../x")
        error = page.locator("#tx-t-lora_name-error")
        expect(error).to_contain_text("a name without")
        page.locator("#tx-t-lora_name").fill("x")
        expect(error).to_be_hidden()
        page.locator("#tx-t-fit").click()
        expect(page.locator(".tx-t-facts")).to_contain_text(re.compile(r"Updates\s*60"))
        expect(page.locator("#tx-t-batch_size")).to_have_value("4")
        page.locator("#tx-t-model").select_option("tiny.gguf")
        expect(page.locator("#tx-t-model-error")).to_contain_text("original model")
        page.get_by_role("radio", name="Raw text file").check()
        expect(page.locator("#tx-t-raw_text_file")).to_be_visible()
        expect(page.locator("#tx-t-dataset")).to_be_hidden()
        assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_a_refused_start_says_why_until_the_form_is_changed(chromium: Browser, server: Server) -> None:
    (server.models.parent / "loras" / "taken").mkdir(parents=True)
    with contextlib.closing(Window(chromium, server.url, "en", (1440, 900))) as window:
        page = window.page
        fill(page, "")
        expect(page.locator("#tx-t-fit")).to_be_visible()
        with page.expect_response(re.compile("/training/facts")):  # asked for the name, and answered after the start
            page.locator("#tx-t-lora_name").fill("taken")
            page.locator("#tx-t-start").click()
            expect(page.locator("#tx-t-lora_name-error")).to_contain_text("already a LoRA 'taken'")
        page.wait_for_timeout(50)  # until the page has drawn it
        expect(page.locator("#tx-t-lora_name-error")).to_be_visible()
        expect(page.get_by_role("alert").filter(has_text="already a LoRA 'taken'")).to_be_visible()
        page.locator("#tx-t-lora_name").fill("free")
        expect(page.get_by_role("alert").filter(has_text="already a LoRA 'taken'")).to_be_hidden()


def test_new_files_are_in_the_menus_when_the_page_is_shown_again(chromium: Browser, server: Server) -> None:
    with contextlib.closing(Window(chromium, server.url, "en", (1440, 900))) as window:
        page = window.page
        fill(page, "x")
        advanced = page.locator("#tx-t-group-advanced")
        advanced.locator("summary").click()
        window.tab("Model")
        (server.models.parent / "datasets" / "new.json").write_text(json.dumps(ROWS))
        window.tab("Training")
        expect(page.locator('#tx-t-dataset option[value="new.json"]')).to_be_attached()
        expect(advanced).to_have_attribute("open", "")


def test_the_form_keeps_over_a_reload_which_lora_a_run_continues(chromium: Browser, server: Server) -> None:
    peft(server.models.parent / "loras" / "begun")
    with contextlib.closing(Window(chromium, server.url, "en", (1440, 900))) as window:
        page, continues = window.page, window.page.locator("#tx-t-continues")
        fill(page, "more")
        continues.select_option("begun")
        page.reload()
        expect(continues).to_have_value("begun")
        page.get_by_role("button", name="Reset to defaults").click()
        expect(continues).to_have_value("")


def test_data_are_uploaded_once_however_often_the_button_is_pressed(chromium: Browser, server: Server) -> None:
    with contextlib.closing(Window(chromium, server.url, "en", (1440, 900))) as window:
        page = window.page
        fill(page, "x")
        release = window.hold_answers("/training/upload")
        chosen = {"name": "more.json", "mimeType": "application/json", "buffer": json.dumps(ROWS).encode()}
        page.locator("#tx-t-upload").focus()
        page.locator(".tx-t-left input[type=file]").last.set_input_files([chosen])
        button = page.locator("#tx-t-upload")
        expect(button).to_have_text("Uploading…")
        opened: list[object] = []
        page.on("filechooser", lambda chooser: opened.append(chooser))
        button.press("Enter")
        expect(button).to_be_focused()
        release()
        expect(page.locator("#tx-t-dataset")).to_have_value("more.json")
        expect(button).not_to_have_text("Uploading…")
        assert not opened


def add_finished_run(server: Server, name: str, adapter: str = "") -> None:
    facts = RunFacts(name, "tiny", "", "safetensors", "", "", 5, {"lora_name": name}, {}, 0.0)
    folder = RunFolder(server.models.parent / "runs" / name)
    folder.path.mkdir(parents=True)
    folder.create(facts)
    folder.save(RunView(facts, "finished", adapter=adapter))


def test_gguf_models_are_offered_that_were_listed_after_the_runs(chromium: Browser, server: Server) -> None:
    peft(server.models.parent / "loras" / "exported")
    add_finished_run(server, "exported", adapter="exported")
    with contextlib.closing(Window(chromium, server.url, "en", (1440, 900))) as window:
        page = window.page
        release = window.hold_answers("/training/form")
        page.evaluate("location.hash = 'training'")
        expect(page.locator('[data-run="exported"]')).to_be_visible()
        release()
        expect(page.locator("#tx-t-dataset")).to_be_visible()
        page.locator('[data-run="exported"] .tx-act').click()
        page.get_by_role("menuitem", name="Export as GGUF").click()
        expect(page.locator("dialog option")).to_have_text(["tiny.gguf"])


def test_a_run_that_is_deleted_elsewhere_gives_its_place_to_the_one_that_goes_on(
    chromium: Browser, server: Server
) -> None:
    add_finished_run(server, "old")
    with contextlib.closing(Window(chromium, server.url, "en", (1440, 900))) as window:
        page = window.page
        page.evaluate("location.hash = 'training'")
        page.locator('[data-run="old"] .tx-act').click()
        page.get_by_role("menuitem", name="Show the curve").click()
        live = page.locator(".tx-t-live")
        expect(live).to_contain_text("old")

        def ask(action: str, **body: object) -> None:
            answer = page.request.post(f"{server.url}/training/{action}", data=body, headers={"Origin": server.url})
            assert answer.ok, answer.text()

        ask("start", values={"model": "tiny", "dataset": "colors.json", "lora_name": "goes on"})
        ask("runs/delete", name="old")
        expect(live).to_contain_text("goes on")
        ask("runs/discard", name="goes on")
