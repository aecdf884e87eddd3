"""Run the real `server.py` and a real Chromium. One browser serves all tests; servers and windows are shared where a
test does not need its own, because opening the page takes longer than most tests.

Browser and servers end with this folder's tests: Playwright keeps an event loop running, in which no other test could
start its own.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Error, Page, expect, sync_playwright

from modules.core.paths import ROOT
from modules.system.cpu_memory import resident_memory
from scripts import system_packages
from tests.conftest import worker_pids
from tests.support.forked_server import ForkedProcess, ServerTemplate
from tests.support.quick_expect import look_often

CHROMIUM_FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]

look_often(timeout=15_000)


_PORTS: list[int] = []
"""Ports that servers have used. A server takes the first free one: the browser then takes it for the same server and
does not fetch and compile the scripts of the page again."""


def _port() -> int:
    for port in (*_PORTS, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:  # another server uses it
                continue
            free = int(probe.getsockname()[1])
            break
    if free not in _PORTS:
        _PORTS.append(free)
    return free


@functools.cache
def _template() -> ServerTemplate:
    return ServerTemplate()


class Server:
    """A running server.py with `flags` and the models in `folder`/models.

    It is a fork of a process that has imported the modules already, unless `program` is given: the command to run.
    """

    def __init__(self, folder: Path, *flags: str, program: Sequence[str] = ()) -> None:
        self.port = _port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.models = folder / "models"
        self.log = folder / "server.log"
        arguments = ["--listen-port", str(self.port), "--model-dir", str(self.models), "--prompt-cache-gb", "0"]
        arguments += ["--logs-dir", str(folder / "logs"), "--character-dir", str(folder / "characters")]
        arguments += ["--persona-dir", str(folder / "users"), "--template-dir", str(folder / "templates"), *flags]
        self.process: subprocess.Popen[bytes] | ForkedProcess
        if program:
            with self.log.open("wb") as log:
                self.process = subprocess.Popen([*program, *arguments], cwd=ROOT, stdout=log, stderr=log)
        else:
            self.process = _template().start(arguments, self.log)
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            try:
                urllib.request.urlopen(f"{self.url}/healthz", timeout=2)
                return
            except OSError:
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.02)
        raise AssertionError(self.log.read_text())

    @property
    def workers(self) -> set[int]:
        """The process ids of its workers: one describes loads in advance, another holds the model."""
        return worker_pids(self.process.pid)

    def worker(self) -> int:
        """The process id of the worker that holds the model: the one with the most memory."""
        workers = self.workers
        assert workers
        return max(workers, key=resident_memory)

    def stop(self) -> None:
        """End the server; close the window that is kept open on its page."""
        _close_kept(self.url)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(20)
        assert "Traceback" not in self.log.read_text(), self.log.read_text()


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("page")
    (folder / "models").mkdir()
    (folder / "models" / smollm2.name).symlink_to(smollm2)
    (folder / "models" / "truncated.gguf").write_bytes(smollm2.read_bytes()[:1_000_000])
    running = Server(folder, "--api")
    yield running
    running.stop()


@pytest.fixture(scope="package")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system_packages.browser(), args=CHROMIUM_FLAGS)
        yield browser
        _close_kept()
        browser.close()
    if _template.cache_info().currsize:
        _template().close()
        _template.cache_clear()


_CONTEXTS: dict[object, list[BrowserContext]] = {}
"""Contexts that no window uses, by browser, language, size and color scheme."""


def _context(browser: Browser, language: str, size: tuple[int, int], scheme: str) -> BrowserContext:
    return browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        locale={"zh": "zh-CN", "en": "en-US"}[language],
        color_scheme=scheme,
        reduced_motion="reduce",
        has_touch=size[0] < 500,
        is_mobile=size[0] < 500,
    )


class Window:
    """A browser window on the page, and what a person does there. A request to any other host is a fault."""

    def __init__(self, browser: Browser, url: str, language: str, size: tuple[int, int], scheme: str = "light") -> None:
        self.url = url
        self.language = language
        self.size = size
        self.scheme = scheme
        self.faults: list[str] = []
        self._idle = _CONTEXTS.setdefault((browser, language, size, scheme), [])
        self.context = self._idle.pop() if self._idle else _context(browser, language, size, scheme)
        self.page: Page = self.context.new_page()
        self.page.on("request", lambda request: self._watch(request.url))
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.open("/")

    def _watch(self, url: str) -> None:
        if not url.startswith((self.url, "data:", "blob:")):
            self.faults.append(f"left localhost: {url}")

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)
        expect(self.page.locator("#tx-send")).to_be_visible(timeout=30_000)
        # The page asks for its model as soon as its handlers are attached, and then sets the class of the loader.
        expect(self.page.locator("#tx-page")).to_have_class(re.compile("show-"), timeout=30_000)

    def tab(self, name: str) -> None:
        """Go to a destination of the sidebar, which is a drawer on a phone."""
        if self.size[0] < 760:
            self.page.locator("#tx-open-menu").click()
        self.page.locator("#tx-destinations").get_by_role("link", name=name, exact=True).click()

    def import_conversations(self, titles: Sequence[str], answer: str = "An answer.") -> list[str]:
        """Give the server conversations of one question and one answer, the first one the newest; return their ids."""
        now = time.time()
        conversations = [
            {
                "title": title,
                "updated_at": now - 60 * number,
                "chat": {
                    "title": title,
                    "messages": [
                        {"role": "user", "content": f"Question about {title}"},
                        {"role": "assistant", "content": answer},
                    ],
                },
            }
            for number, title in enumerate(titles)
        ]
        answered = self.page.request.post(
            f"{self.url}/chat/import?name=export.json",
            data=json.dumps(conversations).encode(),
            headers={"Content-Type": "application/octet-stream", "Origin": self.url},
        )
        assert answered.ok, answered.text()
        ids: list[str] = answered.json()["ids"]
        return ids

    def choose(self, dropdown: str, name: str) -> None:
        if dropdown == "tx-model":
            self.page.locator(f'#tx-model-list [data-name="{name}"] .tx-ml-main').click()
            return
        self.page.locator(f"#{dropdown} input").click()
        self.page.get_by_role("option", name=name, exact=True).click()

    def pick(self, name: str) -> None:
        """Choose a model and wait for its settings, which would overwrite what is typed before they arrive."""
        self.choose("tx-model", name)
        expect(self.page.locator("#tx-facts [data-model]")).to_have_attribute("data-model", name)
        expect(self.page.locator("#tx-marks [data-marks]")).to_have_attribute("data-model", name)

    def hold_answers(self, part: str) -> Callable[[], None]:
        """Keep answers of addresses with `part` from the page, until the function that is returned is called."""
        self.page.evaluate(
            """part => {
                const send = window.fetch;
                const released = new Promise((release) => { (window.held ??= {})[part] = release; });
                window.fetch = async (url, options) => {
                    const answer = await send(url, options);
                    if (String(url).includes(part)) await released;
                    return answer;
                };
            }""",
            part,
        )
        return lambda: self.page.evaluate("part => window.held[part]()", part)

    def load(self, name: str, **options: str) -> None:
        """Pick a model on the Model page, set number options, press Load."""
        self.tab("模型" if self.language == "zh" else "Model")
        self.page.locator("#tx-unload").click()
        expect(self.page.locator("#tx-pill .tx-empty")).to_be_visible()
        if self.page.locator("#tx-model input").input_value() != name:
            self.pick(name)
        for key, value in options.items():
            box = (
                self.page.locator(f"#tx-opt-{key}")
                .get_by_test_id("number-input")
                .or_(self.page.locator(f"#tx-opt-{key} input[type=number]"))
            )
            box.first.fill(value)
            box.first.blur()
        self.page.locator("#tx-load").click()

    def loaded(self, seconds: int = 30) -> None:
        """Wait until a model is ready. Loaders that import torch take longer."""
        expect(self.page.locator("#tx-pill .tx-ready")).to_be_visible(timeout=seconds * 1000)

    def set_parameter(self, key: str, value: str) -> None:
        """Set a generation parameter in its tab, and return to the chat."""
        box = self.page.locator(f"#tx-gen-{key} input[type=number]").first
        mounted = box.count() > 0
        self.tab("参数" if self.language == "zh" else "Parameters")
        expect(box).to_be_visible()
        if not mounted:  # the content of the tab is mounted when it is first shown, and sets the field once more then
            self.page.wait_for_timeout(600)
        box.fill(value)
        box.blur()
        expect(box).to_have_value(value)
        self.tab("聊天" if self.language == "zh" else "Chat")

    def new_chat(self) -> None:
        """Begin a conversation, which the server does not know before its first message."""
        if self.size[0] < 760:
            self.page.locator("#tx-open-menu").click()
        self.page.locator("#tx-new-chat").click()
        expect(self.answers).to_have_count(0)

    def ask(self, question: str) -> None:
        self.tab("聊天" if self.language == "zh" else "Chat")
        self.page.locator("#tx-input").fill(question)
        self.page.locator("#tx-input").press("Enter")

    def wait_for_answer(self) -> None:
        """Wait until no answer is being written."""
        expect(self.page.locator("#tx-conversation.tx-answering")).to_have_count(0, timeout=60_000)
        expect(self.page.locator("#tx-send")).to_be_visible(timeout=60_000)  # it may only have begun after that

    @property
    def answers(self):  # type: ignore[no-untyped-def]
        """The texts of the model's messages."""
        return self.page.locator("#tx-messages .tx-bot .tx-body")

    @property
    def facts(self):  # type: ignore[no-untyped-def]
        """The lines below the model's messages: speed, length, and why an answer ended."""
        return self.page.locator("#tx-messages .tx-bot .tx-facts-line")

    def close(self) -> None:
        """Close the page; keep its context, emptied except for the HTTP cache, for the next window like this one."""
        with contextlib.suppress(Error):  # a page without an origin has no storage
            self.page.evaluate("localStorage.clear(); sessionStorage.clear()")
        for page in self.context.pages:
            page.close()
        self.context.clear_cookies()
        self._idle.append(self.context)
        assert not self.faults, self.faults


_KEPT: list[Window] = []
"""The window that the last test left open, if any."""


def _close_kept(url: str = "") -> None:
    """Close the kept window, if it is on the page at `url`."""
    if _KEPT and _KEPT[0].url.startswith(url):
        _KEPT.pop().close()


@contextlib.contextmanager
def kept_open(
    chromium: Browser, server: Server, language: str = "zh", size: tuple[int, int] = (1440, 900), scheme: str = "light"
) -> Iterator[tuple[Window, bool]]:
    """Yield a window and whether it is new. It stays open afterwards for the next test that asks for the same kind.

    What the page shows is left as it is: the test sets what it depends on.
    """
    wanted = (server.url, language, size, scheme)
    kept = _KEPT.pop() if _KEPT else None
    if kept is not None and (kept.url, kept.language, kept.size, kept.scheme) != wanted:
        kept.close()
        kept = None
    window = kept or Window(chromium, server.url, language, size, scheme)
    try:
        yield window, kept is None
        assert not window.faults, window.faults
    except BaseException:
        window.faults.clear()
        window.close()
        raise
    _close_kept()
    _KEPT.append(window)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport]:
    """After a failure, do not pass the window on to the next test."""
    report = yield
    if report.failed:
        with contextlib.suppress(AssertionError):  # its faults have failed the test already, or came after it
            _close_kept()
    return report


@contextlib.contextmanager
def opened(
    chromium: Browser, folder: Path, option: str, language: str = "zh", width: int = 1440, *flags: str
) -> Iterator[Window]:
    """Start a server with the models in `folder` and open its Model page; yield the window once it shows `option`."""
    server = Server(folder, "--settings", str(folder / "settings.yaml"), *flags)
    try:
        with contextlib.closing(Window(chromium, server.url, language, (width, 900))) as window:
            window.tab("模型" if language == "zh" else "Model")
            expect(window.page.locator(f"#tx-opt-{option}")).to_be_visible()
            yield window
    finally:
        server.stop()


@pytest.fixture
def window(chromium: Browser, server: Server, request: pytest.FixtureRequest) -> Iterator[Window]:
    """A new desktop window in Chinese; `@pytest.mark.window(language, width, height)` asks for another."""
    marker = request.node.get_closest_marker("window")
    language, width, height = marker.args if marker else ("zh", 1440, 900)
    new_window = Window(chromium, server.url, language, (width, height))
    yield new_window
    new_window.close()


@pytest.fixture
def shared_window(chromium: Browser, server: Server) -> Iterator[Window]:
    """A desktop window in Chinese that tests pass on to each other, with an empty conversation."""
    with kept_open(chromium, server) as (window, new):
        if not new:
            window.page.keyboard.press("Escape")  # an open menu
            window.tab("聊天")
            window.page.locator("#tx-input").fill("")
            window.new_chat()
        yield window


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Server]:
    """A server without models, whose files belong to one test."""
    (tmp_path / "models").mkdir()
    server = Server(tmp_path)
    yield server
    server.stop()
