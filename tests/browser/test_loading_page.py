"""Loads from the page: repeated, replaced, cancelled, with the tab closed meanwhile. The newest request wins.

The model loads in half a second. To have a load under way for as long as a test looks, its worker is stopped (SIGSTOP)
as soon as it appears, as a disk stops that has to be woken.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.conftest import Server, Window

FIRST, SECOND, THIRD = "a first.gguf", "b 第二 [2]+$.gguf", "c third.gguf"
WORDS = {
    "zh": {"tab": "模型", "unload": "卸载", "cancel": "取消加载", "empty": "没有加载模型"},
    "en": {"tab": "Model", "unload": "Unload", "cancel": "Cancel", "empty": "No model is loaded"},
}
PATIENCE = 30.0
HEADER = 2_000_000  # bytes of the model's file, and a little more; after it come the weights


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Server]:
    """A server of this file's own: with three models, and settings that it may write."""
    folder = tmp_path_factory.mktemp("loading page")
    (folder / "models").mkdir()
    for name in (FIRST, SECOND, THIRD):
        (folder / "models" / name).symlink_to(smollm2)
    (folder / "settings.yaml").touch()
    running = Server(folder, "--api", "--settings", str(folder / "settings.yaml"))
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _nothing_is_left_behind(server: Server) -> Iterator[None]:
    """After its windows are closed, a test's model is let go, and no process is left: each begins with nothing."""
    yield
    unload(server)
    until(lambda: not server.workers)


@contextlib.contextmanager
def opened(
    chromium: Browser, server: Server, language: str = "en", width: int = 1440, scheme: str = "light"
) -> Iterator[Window]:
    """The Model tab, once it has told what it is about to load: the worker that explains is there by then."""
    with contextlib.closing(Window(chromium, server.url, language, (width, 900), scheme)) as window:
        window.tab(WORDS[language]["tab"])
        expect(window.page.locator("#tx-notes details pre")).to_have_count(1)
        yield window


# -- what people do ---------------------------------------------------------------------------------------------------


def press(window: Window, button: str) -> None:
    window.page.locator(f"#tx-{button}").click()


def pick(window: Window, name: str) -> None:
    """Choose a model and wait until the page has told what loading it would call."""
    if window.page.locator("#tx-model input").input_value() != name:
        window.choose("tx-model", name)
    expect(window.page.locator("#tx-notes")).to_contain_text(name)


def fill(window: Window, key: str, value: str) -> None:
    box = window.page.locator(f"#tx-opt-{key} input[type=number]").first
    box.fill(value)
    box.blur()
    expect(window.page.locator(f"#tx-opt-{key} .tx-source")).to_have_attribute("data-source", "form")


def unload(server: Server) -> None:
    """What the API's client does, who sees no page."""
    request = urllib.request.Request(f"{server.url}/v1/internal/model/unload", method="POST")
    urllib.request.urlopen(request, timeout=PATIENCE).close()


# -- what they see ----------------------------------------------------------------------------------------------------


def pill(window: Window, state: str) -> Locator:
    return window.page.locator(f"#tx-pill .tx-{state}")


def shows_ready(window: Window, name: str, seconds: float = PATIENCE) -> None:
    expect(pill(window, "ready")).to_have_attribute("title", name, timeout=seconds * 1000)
    expect(window.page.locator("#tx-unload")).to_have_text(WORDS[window.language]["unload"])


def shows_loading(window: Window, name: str) -> None:
    expect(pill(window, "loading")).to_have_attribute("title", name)
    expect(window.page.locator("#tx-unload")).to_have_text(WORDS[window.language]["cancel"])


def shows_empty(window: Window) -> None:
    expect(pill(window, "empty")).to_be_visible()
    expect(window.page.locator("#tx-unload")).to_have_text(WORDS[window.language]["unload"])
    expect(window.page.locator("#tx-status")).to_contain_text(WORDS[window.language]["empty"])


def percents(window: Window) -> list[str]:
    """How far the load is by the status line, by the width of its bar and by the pill; once these stand still."""
    before: list[str] = []
    while True:
        told: list[str] = window.page.evaluate(
            """() => {
                const status = document.querySelector("#tx-status"), bar = status.querySelector(".tx-bar i");
                const pill = document.querySelector("#tx-pill");
                return [status.innerText, bar ? bar.style.width : "", pill.innerText];
            }"""
        )
        found = [number for text in told for number in re.findall(r"(\d+)%", text)]
        if found == before:
            return found
        before = found
        window.page.wait_for_timeout(300)  # the page hears of it every 150 ms


# -- what goes on behind the page -------------------------------------------------------------------------------------


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)


def held(server: Server, start: Callable[[], None]) -> int:
    """The worker of the load that `start` asks for, stopped before it has loaded anything."""
    known = server.workers

    def stop_the_next() -> int:
        until(lambda: server.workers - known)
        pid = min(server.workers - known)
        os.kill(pid, signal.SIGSTOP)
        return pid

    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(stop_the_next)
        start()
        return stopped.result()


@contextlib.contextmanager
def watched(server: Server) -> Iterator[set[int]]:
    """All workers there are from now on, and those there have been."""
    seen: set[int] = set()
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.01):
            seen.update(server.workers)

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        try:
            yield seen
        finally:
            done.set()
        watching.result()


def holders(server: Server) -> set[int]:
    """The workers that have the weights in their memory."""
    return {pid for pid in server.workers if ".gguf" in told_of(pid, "maps")}


def told_of(pid: int, what: str) -> str:
    try:
        return Path(f"/proc/{pid}/{what}").read_text(errors="replace")
    except OSError:  # it has ended
        return ""


def bytes_read(pid: int) -> int:
    """How far into its model's file a worker has read."""
    files = Path(f"/proc/{pid}/fd")
    with contextlib.suppress(OSError):
        for number in [each.name for each in files.iterdir() if os.readlink(each).endswith(".gguf")]:
            return int(told_of(pid, f"fdinfo/{number}").split()[1])
    return 0


def only_one_holds_a_model(server: Server) -> int:
    """Beside it there is at most the one that explains."""
    until(lambda: len(holders(server)) == 1 and len(server.workers) <= 2)
    return holders(server).pop()


# -- given up ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("language", "width", "scheme"), [("zh", 390, "light"), ("en", 1440, "dark")])
def test_a_load_is_cancelled_and_the_next_one_works(
    chromium: Browser, server: Server, language: str, width: int, scheme: str
) -> None:
    with opened(chromium, server, language, width, scheme) as window:
        worker = held(server, lambda: press(window, "load"))
        shows_loading(window, FIRST)
        assert window.page.evaluate("document.documentElement.scrollWidth") <= width
        press(window, "unload")
        shows_empty(window)
        until(lambda: worker not in server.workers)
        press(window, "load")
        shows_ready(window, FIRST)
        only_one_holds_a_model(server)


def test_cancelling_a_load_that_replaced_a_model_leaves_nothing_loaded(chromium: Browser, server: Server) -> None:
    with opened(chromium, server, "zh") as window:
        press(window, "load")
        shows_ready(window, FIRST)
        pick(window, SECOND)
        worker = held(server, lambda: press(window, "load"))
        shows_loading(window, SECOND)
        press(window, "unload")
        shows_empty(window)
        until(lambda: worker not in server.workers and not holders(server))


def test_an_unload_by_the_api_cancels_the_load_of_the_page(chromium: Browser, server: Server) -> None:
    with opened(chromium, server) as window:
        worker = held(server, lambda: press(window, "load"))
        shows_loading(window, FIRST)
        unload(server)
        shows_empty(window)
        until(lambda: worker not in server.workers)


def test_a_worker_that_dies_while_loading_is_reported_and_the_next_load_works(
    chromium: Browser, server: Server
) -> None:
    with opened(chromium, server, "zh", 390) as window:
        worker = held(server, lambda: press(window, "load"))
        shows_loading(window, FIRST)
        os.kill(worker, signal.SIGKILL)
        expect(window.page.locator("#tx-status [role=alert]")).to_contain_text("在加载时意外结束（SIGKILL）")
        expect(pill(window, "failed")).to_be_visible()
        expect(window.page.locator("#tx-unload")).to_have_text("卸载")
        press(window, "load")
        shows_ready(window, FIRST)


# -- twice, or another one --------------------------------------------------------------------------------------------


def test_load_pressed_twice_at_once_loads_one_model(chromium: Browser, server: Server) -> None:
    with opened(chromium, server, "zh") as window:
        window.page.locator("#tx-load").dblclick()
        shows_ready(window, FIRST)
        only_one_holds_a_model(server)


def test_load_pressed_again_while_it_loads_changes_nothing(chromium: Browser, server: Server) -> None:
    with opened(chromium, server) as window, watched(server) as seen:
        explains = set(server.workers)
        worker = held(server, lambda: press(window, "load"))
        shows_loading(window, FIRST)
        press(window, "load")
        press(window, "reload")
        os.kill(worker, signal.SIGCONT)
        shows_ready(window, FIRST)
        assert only_one_holds_a_model(server) == worker
        assert seen == {worker, *explains}


def test_pressing_load_with_other_options_restarts_the_load(chromium: Browser, server: Server) -> None:
    with opened(chromium, server) as window:
        worker = held(server, lambda: press(window, "load"))
        shows_loading(window, FIRST)
        fill(window, "n_ctx", "1024")
        press(window, "load")
        expect(pill(window, "ready")).to_contain_text("llama.cpp · 1024")
        assert only_one_holds_a_model(server) != worker
        assert worker not in server.workers


def test_a_second_model_replaces_the_one_being_loaded(chromium: Browser, server: Server) -> None:
    with opened(chromium, server, "zh") as window:
        worker = held(server, lambda: press(window, "load"))
        shows_loading(window, FIRST)
        pick(window, SECOND)
        press(window, "load")
        shows_ready(window, SECOND)
        assert only_one_holds_a_model(server) != worker
        assert worker not in server.workers


@pytest.fixture
def autoloading(chromium: Browser, server: Server) -> Iterator[Window]:
    """A window in which what is picked is loaded; the page of the next test is as before."""
    with opened(chromium, server) as window:
        tick = window.page.locator("#tx-autoload input")
        tick.check()
        yield window
        tick.uncheck()
        until(lambda: "false" in (server.models.parent / "settings.yaml").read_text())


def test_autoload_loads_only_the_last_of_three_models_selected_quickly(autoloading: Window, server: Server) -> None:
    window = autoloading
    explains = set(server.workers)
    with watched(server) as seen:
        first = held(server, lambda: window.choose("tx-model", SECOND))
        shows_loading(window, SECOND)
        for name in (THIRD, FIRST, THIRD):
            window.choose("tx-model", name)
        shows_ready(window, THIRD)
        expect(window.page.locator("#tx-model input")).to_have_value(THIRD)
        only_one_holds_a_model(server)
    assert first not in server.workers
    assert len(seen - explains) <= 4, "one for each model that was picked"


def test_autoload_loads_a_selected_model_once_and_nothing_if_the_menu_is_only_opened(
    autoloading: Window, server: Server
) -> None:
    window = autoloading
    explains = set(server.workers)
    menu = window.page.locator("#tx-model input")
    with watched(server) as seen:
        worker = held(server, lambda: window.choose("tx-model", SECOND))
        shows_loading(window, SECOND)
        expect(window.page.locator("#tx-notes")).to_contain_text(SECOND)
        assert seen == {worker, *explains}, "the mouse makes Gradio tell of it twice"
        press(window, "unload")
        shows_empty(window)
        fill(window, "n_ctx", "1024")
        menu.click()
        with window.page.expect_response("**/run/predict"):
            menu.blur()
        press(window, "load")
        expect(pill(window, "ready")).to_contain_text("llama.cpp · 1024")
        expect(window.page.locator("#tx-opt-n_ctx input[type=number]").first).to_have_value("1024")
    assert menu.input_value() == SECOND


# -- other tabs -------------------------------------------------------------------------------------------------------


def test_a_load_goes_on_when_its_tab_is_closed_and_a_new_tab_shows_it(chromium: Browser, server: Server) -> None:
    with opened(chromium, server) as window:
        worker = held(server, lambda: press(window, "load"))
        shows_loading(window, FIRST)
    with opened(chromium, server, "zh", 390, "dark") as window:
        shows_loading(window, FIRST)
        os.kill(worker, signal.SIGCONT)
        shows_ready(window, FIRST)
        assert only_one_holds_a_model(server) == worker


def test_a_load_whose_tab_was_closed_is_cancelled_from_another(chromium: Browser, server: Server) -> None:
    with opened(chromium, server, "zh") as window:
        worker = held(server, lambda: press(window, "load"))
        shows_loading(window, FIRST)
    with opened(chromium, server) as window:
        shows_loading(window, FIRST)
        press(window, "unload")
        shows_empty(window)
        until(lambda: worker not in server.workers)


def test_a_page_opened_during_a_load_shows_it(chromium: Browser, server: Server) -> None:
    with opened(chromium, server) as window:
        pick(window, SECOND)
        worker = held(server, lambda: press(window, "load"))
        shows_loading(window, SECOND)
        window.open("/")
        window.tab("Model")
        shows_loading(window, SECOND)
        expect(window.page.locator("#tx-model input")).to_have_value(SECOND)
        os.kill(worker, signal.SIGCONT)
        shows_ready(window, SECOND)


def test_loads_of_one_tab_show_in_another_within_three_seconds(chromium: Browser, server: Server) -> None:
    with opened(chromium, server, "zh") as one, opened(chromium, server, "en", 390) as other:
        worker = held(server, lambda: press(one, "load"))
        expect(pill(other, "loading")).to_have_attribute("title", FIRST, timeout=3000)
        press(other, "unload")
        expect(pill(one, "empty")).to_be_visible(timeout=3000)
        shows_empty(one)
        until(lambda: worker not in server.workers)
        press(one, "load")
        shows_ready(one, FIRST)
        shows_ready(other, FIRST, 3)


# -- how it goes ------------------------------------------------------------------------------------------------------


def test_reload_uses_the_current_options(chromium: Browser, server: Server) -> None:
    with opened(chromium, server, "zh") as window:
        press(window, "load")
        shows_ready(window, FIRST)
        before = only_one_holds_a_model(server)
        fill(window, "n_ctx", "1024")
        press(window, "reload")
        expect(pill(window, "ready")).to_contain_text("llama.cpp · 1024")
        assert only_one_holds_a_model(server) != before
        assert before not in server.workers


def percents_shown(window: Window, worker: int) -> list[int]:
    """What the page says of a load between its beginning and its end, of a worker that is stopped.

    It goes on by some milliseconds at a time, as if from a slow disk, so that the page can follow.
    """

    def read_on() -> int:
        os.kill(worker, signal.SIGCONT)
        time.sleep(0.003)
        os.kill(worker, signal.SIGSTOP)
        return bytes_read(worker)

    shown: list[int] = []
    until(lambda: read_on() > HEADER)
    while len(set(shown)) < 2 and not pill(window, "ready").count():
        told = percents(window)
        if len(told) == 3 and 0 < int(told[0]) < 100:
            assert len(set(told)) == 1, "the status line, its bar and the pill"
            shown.append(int(told[0]))
        read_on()
    os.kill(worker, signal.SIGCONT)
    return shown


def test_the_progress_bar_follows_the_weights_read(chromium: Browser, server: Server) -> None:
    with opened(chromium, server) as window:
        window.page.locator("#tx-opts button.label-wrap", has_text="Memory and devices").click()
        window.page.locator("#tx-opt-no_mmap input").check()
        expect(window.page.locator("#tx-opt-no_mmap .tx-source")).to_have_attribute("data-source", "form")
        shown: list[int] = []
        for _ in range(5):  # a few milliseconds may be enough for all of it, once in a while
            shown = percents_shown(window, held(server, lambda: press(window, "reload")))
            shows_ready(window, FIRST)
            if len(set(shown)) > 1:
                break
        assert len(set(shown)) > 1
        assert shown == sorted(shown)
