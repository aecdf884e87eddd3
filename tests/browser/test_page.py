"""The page as users see it: select, load, ask, stop and edit, and what is shown when something fails."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Server, Window
from tests.support.checkpoint_files import checkpoint

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "Name the capital of France in one English sentence."
LONG = "Write a very long story about a lighthouse, with many chapters."


def prepare_chat(window: Window, max_new_tokens: int = 512) -> None:
    """Load the model if it is not loaded, and have it give its likeliest answer of at most `max_new_tokens`."""
    if not window.page.locator("#tx-pill .tx-ready", has_text="llama.cpp · 2048").count():
        window.load(MODEL, n_ctx="2048")
        window.loaded()
    set_changed_parameter(window, "temperature", "0")
    set_changed_parameter(window, "max_new_tokens", str(max_new_tokens))
    window.tab("聊天" if window.language == "zh" else "Chat")


def set_changed_parameter(window: Window, key: str, value: str) -> None:
    field = window.page.locator(f"#tx-gen-{key} input[type=number]").first
    if not field.count() or field.input_value() != value:
        window.set_parameter(key, value)


def test_a_model_is_selected_loaded_and_answers_paris(shared_window: Window) -> None:
    prepare_chat(shared_window)
    shared_window.ask(QUESTION)
    expect(shared_window.answers.last).to_contain_text("Paris")
    shared_window.wait_for_answer()
    expect(shared_window.facts.last).to_contain_text("词符/秒")


def test_an_answer_streams_and_can_be_stopped(shared_window: Window) -> None:
    window = shared_window
    prepare_chat(window, 1500)
    window.ask(LONG)
    expect(window.page.locator("#tx-stop")).to_be_visible()
    expect(window.answers.last).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    half = window.answers.last.inner_text()
    # Not a pointer's click, which waits for frames: these are rare while the model computes on the only core.
    window.page.locator("#tx-stop").dispatch_event("click")
    expect(window.page.locator("#tx-send")).to_be_visible()
    before, stopped = "", window.answers.last.inner_text()
    while stopped != before:  # text that was already on its way is still drawn
        window.page.wait_for_timeout(300)
        before, stopped = stopped, window.answers.last.inner_text()
    assert len(half) <= len(stopped) < 5000
    # The engine is free again: a short question is answered at once.
    window.set_parameter("max_new_tokens", "20")
    window.new_chat()
    window.ask(QUESTION)
    expect(window.answers.last).to_contain_text("Paris", timeout=8_000)


def test_answering_again_takes_the_prompt_from_the_cache_and_continuing_extends(shared_window: Window) -> None:
    window = shared_window
    prepare_chat(window, 3)
    window.ask(QUESTION)
    window.wait_for_answer()
    expect(window.facts.last).to_contain_text("最多新词符数")
    first = window.answers.last.inner_text().strip()
    window.page.keyboard.press("Control+Enter")
    expect(window.page.locator(".tx-bot .tx-version")).to_have_text("2/2")
    window.wait_for_answer()
    expect(window.answers).to_have_count(1)
    assert window.answers.last.inner_text().strip() == first
    window.page.locator(".tx-bot [data-act=receipt]").click()
    expect(window.page.locator("dialog.tx-sheet dd", has_text="cached: 39")).to_be_visible()
    window.page.keyboard.press("Escape")
    window.set_parameter("max_new_tokens", "40")
    window.page.keyboard.press("Alt+Enter")
    expect(window.answers.last).to_contain_text("Paris")
    expect(window.answers).to_have_count(1)
    assert window.answers.last.inner_text().strip().startswith(first)
    window.wait_for_answer()


def test_unloading_reports_the_freed_memory(shared_window: Window) -> None:
    prepare_chat(shared_window)
    shared_window.tab("模型")
    status = shared_window.page.locator("#tx-status")
    expect(status).to_contain_text("占用内存")
    shared_window.page.locator("#tx-unload").click()
    expect(status).to_contain_text(re.compile(r"释放 \d+ MB"))


def test_without_a_model_the_question_is_kept(shared_window: Window) -> None:
    window = shared_window
    window.tab("模型")
    window.page.locator("#tx-unload").click()
    expect(window.page.locator("#tx-pill .tx-empty")).to_be_visible()
    window.ask(QUESTION)
    expect(window.page.locator("#tx-chat-line [role=alert]")).to_contain_text("尚未加载模型")
    expect(window.page.locator("#tx-input")).to_have_value(QUESTION)
    window.page.locator("#tx-load-and-send").click()
    expect(window.answers.last).to_contain_text("Paris", timeout=30_000)
    expect(window.page.locator("#tx-chat-line")).to_be_empty()
    window.wait_for_answer()


def test_a_killed_worker_is_reported_and_the_next_load_works(shared_window: Window, server: Server) -> None:
    window = shared_window
    prepare_chat(window, 1500)
    os.kill(server.worker(), signal.SIGKILL)  # while idle
    expect(window.page.locator("#tx-pill .tx-failed")).to_be_visible()
    window.ask(QUESTION)
    expect(window.page.locator("#tx-chat-line [role=alert]")).to_contain_text("SIGKILL")
    expect(window.page.locator("#tx-input")).to_have_value(QUESTION)  # nothing typed is lost
    prepare_chat(window, 1500)
    window.ask(LONG)
    expect(window.answers.last).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    os.kill(server.worker(), signal.SIGSEGV)  # while it generates
    expect(window.page.locator(".tx-run-error [role=alert]")).to_contain_text("SIGSEGV")
    expect(window.page.locator("#tx-send")).to_be_visible()
    expect(window.page.locator("#tx-pill .tx-failed")).to_be_visible()
    prepare_chat(window, 40)
    window.new_chat()  # the unfinished story, which differs from run to run, would change the answer
    window.ask(QUESTION)
    expect(window.answers.last).to_contain_text("Paris")
    expect(window.page.locator("#tx-send")).to_be_visible()


def test_a_second_window_shows_changes(shared_window: Window, chromium: Browser, server: Server) -> None:
    shared_window.tab("模型")
    shared_window.page.locator("#tx-unload").click()
    second = Window(chromium, server.url, "en", (1200, 800))
    expect(second.page.locator("#tx-pill .tx-empty")).to_be_visible()
    prepare_chat(shared_window, 20)
    expect(second.page.locator("#tx-pill .tx-ready")).to_contain_text("llama.cpp · 2048")
    prepare_chat(second, 20)
    second.ask(QUESTION)
    expect(second.answers.last).to_contain_text("Paris")
    expect(second.facts.last).to_contain_text("tok/s")
    second.close()


def test_each_loader_shows_its_own_options_and_each_model_its_own_loaders(
    shared_window: Window, server: Server
) -> None:
    window = shared_window
    folder = checkpoint(server.models / "weights of transformers")
    try:
        window.tab("模型")
        select(window, MODEL)
        expect(window.page.locator("#tx-opt-n_gpu_layers")).to_be_visible()
        expect(window.page.locator("#tx-opt-load_in_4bit")).to_be_hidden()
        window.page.locator("#tx-refresh").click()
        window.pick(folder.name)
        expect(window.page.locator("#tx-loader input")).to_have_value(re.compile("^Transformers"))
        expect(window.page.locator("#tx-opt-load_in_4bit")).to_be_visible()
        expect(window.page.locator("#tx-opt-n_gpu_layers")).to_be_hidden()
        window.pick(MODEL)
        expect(window.page.locator("#tx-opt-n_gpu_layers")).to_be_visible()
        window.page.locator("#tx-loader input").click()
        expect(window.page.get_by_role("option", name=re.compile("^llama"))).to_have_count(2)
        window.page.keyboard.press("Escape")
    finally:
        shutil.rmtree(folder)


def select(window: Window, name: str) -> None:
    if window.page.locator("#tx-model input").input_value() != name:
        window.pick(name)


def test_refreshing_the_models_keeps_the_selection(shared_window: Window, server: Server, smollm2: Path) -> None:
    page = shared_window.page
    shared_window.tab("模型")
    select(shared_window, MODEL)
    added = server.models / "新 模型 [v2]+$.gguf"
    added.symlink_to(smollm2)
    try:
        page.locator("#tx-refresh").click()
        expect(page.locator(f'#tx-model-list [data-name="{added.name}"]')).to_be_visible()
        expect(page.locator("#tx-model input")).to_have_value(MODEL)
    finally:
        added.unlink()


def test_the_form_notes_options_without_effect(shared_window: Window) -> None:
    page = shared_window.page
    shared_window.tab("模型")
    select(shared_window, MODEL)
    page.locator("#tx-opts button.label-wrap", has_text="已失效的选项").click()
    page.get_by_label("禁用 mul_mat_q").check()
    expect(page.locator("#tx-notes")).to_contain_text("no_mul_mat_q")
    expect(page.locator("#tx-notes")).to_contain_text("llama.cpp 已移除此开关")
    expect(page.locator("#tx-opt-threads")).to_contain_text("物理核心")


def test_an_invalid_value_is_refused_by_name(shared_window: Window) -> None:
    shared_window.load(MODEL, n_ctx="-5")
    expect(shared_window.page.locator("#tx-status [role=alert]")).to_contain_text("n_ctx")


def test_a_damaged_file_shows_its_problem(shared_window: Window) -> None:
    page = shared_window.page
    shared_window.tab("模型")
    shared_window.choose("tx-model", "truncated.gguf")
    expect(page.locator("#tx-facts [role=alert]")).to_contain_text("truncated.gguf")
    page.locator("#tx-load").click()
    expect(page.locator("#tx-status [role=alert]")).to_contain_text("truncated.gguf")


COUNT_FRAMES = """
  const counts = (window.counts = { frames: 0, timers: 0 });
  const { requestAnimationFrame, setTimeout } = window;
  window.requestAnimationFrame = (callback) => (counts.frames++, requestAnimationFrame.call(window, callback));
  window.setTimeout = (callback, delay, ...rest) => (
    (counts.timers += delay === 250), setTimeout.call(window, callback, delay, ...rest));
"""


def test_an_idle_page_only_polls_the_digest_and_draws_no_frames(shared_window: Window) -> None:
    window, page = shared_window, shared_window.context.new_page()
    page.add_init_script(COUNT_FRAMES)
    page.goto(f"{window.url}/zh/")
    expect(page.locator("#tx-page")).to_have_class(re.compile("show-"), timeout=30_000)
    page.wait_for_timeout(3000)
    requests: list[str] = []
    page.on("request", lambda request: requests.append(request.url.removeprefix(window.url)))
    page.evaluate("counts.frames = counts.timers = 0")
    page.wait_for_timeout(3000)
    counts = page.evaluate("counts")
    page.close()
    assert 1 <= len(requests) <= 4 and set(requests) == {"/status/zh"}
    assert counts["frames"] < 90, "otherwise sixty a second for each timer"
    assert counts["timers"] > 2, "Gradio's timers stop by themselves now: frames.js is no longer needed"


IS_DARK = "document.body.classList.contains('dark')"


def test_the_language_follows_the_browser_and_the_switch_is_remembered(window: Window) -> None:
    assert window.page.url.endswith("/zh/")
    assert window.page.evaluate("document.documentElement.lang") == "zh-CN"
    assert not window.page.evaluate(IS_DARK), "the color scheme of the system is light"
    window.page.locator("#tx-language").click()
    expect(window.page.get_by_role("link", name="Model", exact=True)).to_be_visible(timeout=30_000)
    window.page.goto(window.url + "/")
    assert window.page.url.endswith("/en/")


def test_the_system_theme_is_followed_until_another_is_chosen_which_is_remembered(
    chromium: Browser, server: Server
) -> None:
    with contextlib.closing(Window(chromium, server.url, "en", (1440, 900), scheme="dark")) as window:
        assert window.page.evaluate(IS_DARK)
        window.page.locator("#tx-theme").click()
        assert not window.page.evaluate(IS_DARK)
        window.open("/")
        assert not window.page.evaluate(IS_DARK)


@pytest.mark.window("zh", 390, 844)
def test_nothing_is_wider_than_a_phone(window: Window) -> None:
    def fits() -> None:
        wide, screen = window.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= screen

    fits()
    prepare_chat(window)
    window.ask(QUESTION)
    expect(window.answers.last).to_contain_text("Paris")
    fits()
    window.tab("模型")
    for name in ("内存与设备", "上下文扩展", "高级选项"):
        window.page.locator("#tx-opts button.label-wrap", has_text=name).click()
    fits()


def test_an_unreachable_server_is_reported_until_it_responds(chromium: Browser, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    server = Server(tmp_path)
    window = Window(chromium, server.url, "zh", (390, 844))
    notice = window.page.locator("#tx-offline")
    expect(notice).to_be_hidden()
    server.stop()
    expect(notice).to_be_visible()
    expect(notice).to_contain_text("服务器没有响应")
    composer, banner = window.page.locator("#tx-composer").bounding_box(), notice.bounding_box()
    assert composer is not None and banner is not None and composer["y"] + composer["height"] <= banner["y"]
    window.page.evaluate("location.hash = '#training'")
    expect(window.page.locator("#tx-page-training")).to_contain_text("无法连接服务器，请稍后重试。")
    restarted = Server(tmp_path)
    assert restarted.url == server.url
    expect(notice).to_be_hidden()
    window.close()
    restarted.stop()


@pytest.fixture
def guarded(smollm2: Path, tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "models").mkdir()
    running = Server(tmp_path, "--gradio-auth", "me:secret", "--api")
    yield running
    running.stop()


def test_a_login_is_required_if_configured(chromium: Browser, guarded: Server) -> None:
    page = chromium.new_page(locale="zh-CN")
    page.goto(f"{guarded.url}/zh/#parameters")
    expect(page.locator("#tx-send")).to_be_hidden()

    def log_in(password: str) -> None:
        page.get_by_label("用户名").fill("me")
        page.get_by_label("密码").fill(password)
        page.get_by_role("button", name="登录").click()

    log_in("wrong")
    expect(page.get_by_text("用户名或密码不正确")).to_be_visible()
    expect(page.locator("#tx-send")).to_be_hidden()
    log_in("secret")
    expect(page.locator("#tx-page-parameters")).to_be_visible(timeout=30_000)
    assert page.request.get(f"{guarded.url}/v1/models").status == 401
    page.context.close()
