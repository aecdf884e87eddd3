"""Loads from the page: repeated, replaced, cancelled, with the tab closed meanwhile. The newest request wins.

The model loads in half a second. To keep a load going for as long as a test needs, its worker is stopped (SIGSTOP) as
soon as it appears.
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

from tests.browser.conftest import Server, Window, kept_open

FIRST, SECOND, THIRD = "a first.gguf", "b 第二 [2]+$.gguf", "c third.gguf"
WORDS = {
    "zh": {"tab": "模型", "unload": "卸载", "cancel": "取消加载", "empty": "没有加载模型"},
    "en": {"tab": "Model", "unload": "Unload", "cancel": "Cancel", "empty": "No model is loaded"},
}
PATIENCE = 30.0
HEADER = 2_000_000  # bytes of the model's file, and a little more; after it come the weights


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Server]:
    """A server with three models and a settings.yaml that tests may change."""
    folder = tmp_path_factory.mktemp("loading page")
    (folder / "models").mkdir()
    for name in (FIRST, SECOND, THIRD):
        (folder / "models" / name).symlink_to(smollm2)
    (folder / "settings.yaml").touch()
    running = Server(folder, "--api", "--settings", str(folder / "settings.yaml"))
    yield running
    running.stop()


@pytest.fixture(autouse=True)
def _unload_after_each_test(server: Server) -> Iterator[None]:
    """Unload the model after each test, and wait until all workers have ended."""
    yield
    unload(server)
    until(lambda: not server.workers)


@contextlib.contextmanager
def opened(
    chromium: Browser, server: Server, language: str = "en", width: int = 1440, scheme: str = "light"
) -> Iterator[Window]:
    """Yield a new window on the Model page, once it describes the load, for which a worker has been started."""
    with contextlib.closing(Window(chromium, server.url, language, (width, 900), scheme)) as window:
        window.tab(WORDS[language]["tab"])
        expect(window.page.locator("#tx-notes details pre")).to_have_count(1)
        yield window


@pytest.fixture
def window(chromium: Browser, server: Server) -> Iterator[Window]:
    """An English window on the Model page that tests pass on to each other; no model is loaded, FIRST is selected, and
    the form shows its settings.

    Selecting a model describes its load, for which a worker is started, as in a new window.
    """
    with kept_open(chromium, server, "en") as (window, new):
        window.tab("Model")
        if not new:
            expect(pill(window, "empty")).to_be_visible()
            pick(window, SECOND)
            pick(window, FIRST)
        expect(window.page.locator("#tx-notes details pre")).to_have_count(1)
        yield window


# -- actions ----------------------------------------------------------------------------------------------------------


def press(window: Window, button: str) -> None:
    window.page.locator(f"#tx-{button}").click()


def pick(window: Window, name: str) -> None:
    """Choose a model and wait until the page describes its load."""
    if window.page.locator("#tx-model input").input_value() != name:
        window.choose("tx-model", name)
    expect(window.page.locator("#tx-notes")).to_contain_text(name)


def fill(window: Window, key: str, value: str) -> None:
    box = window.page.locator(f"#tx-opt-{key} input[type=number]").first
    box.fill(value)
    box.blur()
    expect(window.page.locator(f"#tx-opt-{key} .tx-source")).to_have_attribute("data-source", "form")


def unload(server: Server) -> None:
    """Unload as a client of the API does, which has no page."""
    request = urllib.request.Request(f"{server.url}/v1/internal/model/unload", method="POST")
    urllib.request.urlopen(request, timeout=PATIENCE).close()


# -- what the page shows ----------------------------------------------------------------------------------------------


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
    """Return the progress by the status line, its bar and the pill, once these no longer change."""
    before: list[str] = []
    while True:
        texts: list[str] = window.page.evaluate(
            """() => {
                const status = document.querySelector("#tx-status"), bar = status.querySelector(".tx-bar i");
                const pill = document.querySelector("#tx-pill");
                return [status.innerText, bar ? bar.style.width : "", pill.innerText];
            }"""
        )
        numbers = [number for text in texts for number in re.findall(r"(\d+)%", text)]
        if numbers == before:
            return numbers
        before = numbers
        window.page.wait_for_timeout(300)  # the page is updated every 150 ms


# -- worker processes -------------------------------------------------------------------------------------------------


def until(condition: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "timed out"
        time.sleep(0.002)


def held(server: Server, start: Callable[[], None]) -> int:
    """Call `start`, which starts a load; stop its worker before it has loaded anything, and return its process id."""
    before = server.workers

    def stop_the_next() -> int:
        until(lambda: server.workers - before)
        pid = min(server.workers - before)
        os.kill(pid, signal.SIGSTOP)
        return pid

    with ThreadPoolExecutor(1) as pool:
        stopped = pool.submit(stop_the_next)
        start()
        return stopped.result()


@contextlib.contextmanager
def watched(server: Server) -> Iterator[set[int]]:
    """Yield a set that collects the process ids of all workers that run inside the `with` block."""
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
    """Return the workers that have mapped the weights into memory."""
    return {pid for pid in server.workers if ".gguf" in read_proc(pid, "maps")}


def read_proc(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:  # the process has ended
        return ""


def bytes_read(pid: int) -> int:
    """Return how many bytes of its model's file a worker has read."""
    descriptors = Path(f"/proc/{pid}/fd")
    with contextlib.suppress(OSError):
        for number in [link.name for link in descriptors.iterdir() if os.readlink(link).endswith(".gguf")]:
            return int(read_proc(pid, f"fdinfo/{number}").split()[1])
    return 0


def only_one_holds_a_model(server: Server) -> int:
    """Wait until one worker holds a model, beside at most one that describes loads; return its process id."""
    until(lambda: len(holders(server)) == 1 and len(server.workers) <= 2)
    return holders(server).pop()


# -- cancelled loads --------------------------------------------------------------------------------------------------


def test_a_load_is_cancelled_and_the_next_one_works(chromium: Browser, server: Server) -> None:
    with opened(chromium, server, "zh", 390, "dark") as window:
        worker = held(server, lambda: press(window, "load"))
        shows_loading(window, FIRST)
        assert window.page.evaluate("document.documentElement.scrollWidth") <= 390
        press(window, "unload")
        shows_empty(window)
        until(lambda: worker not in server.workers)
        press(window, "load")
        shows_ready(window, FIRST)
        only_one_holds_a_model(server)

        worker = held(server, lambda: press(window, "reload"))
        shows_loading(window, FIRST)
        os.kill(worker, signal.SIGKILL)
        expect(window.page.locator("#tx-status [role=alert]")).to_contain_text("在加载时意外停止（SIGKILL）")
        expect(pill(window, "failed")).to_be_visible()
        expect(window.page.locator("#tx-unload")).to_have_text("卸载")
        press(window, "load")
        shows_ready(window, FIRST)


def test_cancelling_a_load_leaves_the_model_in_use_that_was_there_before(window: Window, server: Server) -> None:
    press(window, "load")
    shows_ready(window, FIRST)
    pick(window, SECOND)
    worker = held(server, lambda: press(window, "load"))
    shows_loading(window, SECOND)
    assert window.page.evaluate("document.documentElement.scrollWidth") <= 1440
    press(window, "unload")
    shows_ready(window, FIRST)
    until(lambda: worker not in server.workers)
    only_one_holds_a_model(server)


def test_an_unload_by_the_api_cancels_the_load_of_the_page(window: Window, server: Server) -> None:
    worker = held(server, lambda: press(window, "load"))
    shows_loading(window, FIRST)
    unload(server)
    shows_empty(window)
    until(lambda: worker not in server.workers)


# -- repeated and replaced loads --------------------------------------------------------------------------------------


def test_load_pressed_twice_at_once_loads_one_model(window: Window, server: Server) -> None:
    window.page.locator("#tx-load").dblclick()
    shows_ready(window, FIRST)
    only_one_holds_a_model(server)


def test_load_pressed_again_while_it_loads_changes_nothing(window: Window, server: Server) -> None:
    with watched(server) as seen:
        describing = set(server.workers)
        worker = held(server, lambda: press(window, "load"))
        shows_loading(window, FIRST)
        press(window, "load")
        press(window, "reload")
        os.kill(worker, signal.SIGCONT)
        shows_ready(window, FIRST)
        assert only_one_holds_a_model(server) == worker
        assert seen == {worker, *describing}


def test_pressing_load_with_other_options_restarts_the_load(window: Window, server: Server) -> None:
    worker = held(server, lambda: press(window, "load"))
    shows_loading(window, FIRST)
    fill(window, "n_ctx", "1024")
    press(window, "load")
    expect(pill(window, "ready")).to_contain_text("llama.cpp · 1024")
    assert only_one_holds_a_model(server) != worker
    assert worker not in server.workers


def test_a_second_model_replaces_the_one_being_loaded(window: Window, server: Server) -> None:
    worker = held(server, lambda: press(window, "load"))
    shows_loading(window, FIRST)
    pick(window, SECOND)
    press(window, "load")
    shows_ready(window, SECOND)
    assert only_one_holds_a_model(server) != worker
    assert worker not in server.workers


@pytest.fixture
def autoloading(window: Window, server: Server) -> Iterator[Window]:
    """The window with autoload switched on until the end of the test."""
    tick = window.page.locator("#tx-autoload input")
    tick.check()
    yield window
    tick.uncheck()
    until(lambda: "false" in (server.models.parent / "settings.yaml").read_text())


def test_autoload_loads_only_the_last_of_three_models_selected_quickly(autoloading: Window, server: Server) -> None:
    window = autoloading
    describing = set(server.workers)
    with watched(server) as seen:
        first = held(server, lambda: window.choose("tx-model", SECOND))
        shows_loading(window, SECOND)
        for name in (THIRD, FIRST, THIRD):
            window.choose("tx-model", name)
        shows_ready(window, THIRD)
        expect(window.page.locator("#tx-model input")).to_have_value(THIRD)
        only_one_holds_a_model(server)
    assert first not in server.workers
    assert len(seen - describing) <= 4, "one for each model that was picked"


def test_autoload_loads_a_selected_model_once_and_nothing_if_it_is_selected_again(
    autoloading: Window, server: Server
) -> None:
    window = autoloading
    describing = set(server.workers)
    menu = window.page.locator("#tx-model input")
    with watched(server) as seen:
        worker = held(server, lambda: window.choose("tx-model", SECOND))
        shows_loading(window, SECOND)
        expect(window.page.locator("#tx-notes")).to_contain_text(SECOND)
        assert seen == {worker, *describing}, "one load"
        press(window, "unload")
        shows_empty(window)
        fill(window, "n_ctx", "1024")
        with window.page.expect_response("**/run/predict"):
            window.choose("tx-model", SECOND)
        press(window, "load")
        expect(pill(window, "ready")).to_contain_text("llama.cpp · 1024")
        expect(window.page.locator("#tx-opt-n_ctx input[type=number]").first).to_have_value("1024")
    assert menu.input_value() == SECOND


# -- reload and progress ----------------------------------------------------------------------------------------------


def test_reload_uses_the_current_options(window: Window, server: Server) -> None:
    press(window, "load")
    shows_ready(window, FIRST)
    before = only_one_holds_a_model(server)
    fill(window, "n_ctx", "1024")
    press(window, "reload")
    expect(pill(window, "ready")).to_contain_text("llama.cpp · 1024")
    assert only_one_holds_a_model(server) != before
    assert before not in server.workers


def percents_shown(window: Window, worker: int) -> list[int]:
    """Let a stopped worker load; return the percentages that the page shows until the model is ready.

    The worker runs for a few milliseconds at a time, as if it read from a slow disk, so that the page can keep up.
    """

    def read_on() -> int:
        os.kill(worker, signal.SIGCONT)
        time.sleep(0.003)
        os.kill(worker, signal.SIGSTOP)
        return bytes_read(worker)

    shown: list[int] = []
    until(lambda: read_on() > HEADER)
    while len(set(shown)) < 2 and not pill(window, "ready").count():
        numbers = percents(window)
        if len(numbers) == 3 and 0 < int(numbers[0]) < 100:
            assert len(set(numbers)) == 1, "the status line, its bar and the pill"
            shown.append(int(numbers[0]))
        read_on()
    os.kill(worker, signal.SIGCONT)
    return shown


def test_the_progress_bar_follows_the_weights_read(window: Window, server: Server) -> None:
    group = window.page.locator("#tx-opts button.label-wrap", has_text="Memory and devices")
    group.click()
    window.page.locator("#tx-opt-no_mmap input").check()
    expect(window.page.locator("#tx-opt-no_mmap .tx-source")).to_have_attribute("data-source", "form")
    shown: list[int] = []
    for _ in range(5):  # now and then a few milliseconds are enough for the whole load
        shown = percents_shown(window, held(server, lambda: press(window, "reload")))
        shows_ready(window, FIRST)
        if len(set(shown)) > 1:
            break
    assert len(set(shown)) > 1
    assert shown == sorted(shown)
    group.click()


# -- several tabs -----------------------------------------------------------------------------------------------------


def test_a_page_opened_during_a_load_shows_it(window: Window, server: Server) -> None:
    pick(window, SECOND)
    worker = held(server, lambda: press(window, "load"))
    shows_loading(window, SECOND)
    window.open("/")
    window.tab("Model")
    shows_loading(window, SECOND)
    expect(window.page.locator("#tx-model input")).to_have_value(SECOND)
    os.kill(worker, signal.SIGCONT)
    shows_ready(window, SECOND)


def test_a_load_continues_when_its_tab_is_closed_and_other_tabs_show_changes_within_three_seconds(
    chromium: Browser, server: Server
) -> None:
    with opened(chromium, server) as closed:
        worker = held(server, lambda: press(closed, "load"))
        shows_loading(closed, FIRST)
    with opened(chromium, server, "zh", 390, "dark") as first:
        shows_loading(first, FIRST)
        os.kill(worker, signal.SIGCONT)
        shows_ready(first, FIRST)
        assert only_one_holds_a_model(server) == worker
        with opened(chromium, server) as second:
            worker = held(server, lambda: press(first, "reload"))
            expect(pill(second, "loading")).to_have_attribute("title", FIRST, timeout=3000)
            press(second, "unload")
            expect(pill(first, "empty")).to_be_visible(timeout=3000)
            shows_empty(first)
            until(lambda: worker not in server.workers)
            press(first, "load")
            shows_ready(first, FIRST)
            shows_ready(second, FIRST, 3)
