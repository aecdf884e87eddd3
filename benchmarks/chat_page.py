"""The chat page while answers arrive: how far the browser is behind, decode speed, memory, and text lost by kill -9.

    .venv/bin/python benchmarks/chat_page.py [--only lag speed memory kills] [--kills 30] [--rounds 9]

"lag" and "kills" use the loader of `paced_server.py`, whose words are the times at which they were generated: the last
word on the page, or in the file, says how old it is.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import re
import signal
import statistics
import sys
import tempfile
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from figures import MB, session, table, verdict
from paced_server import CYCLE_MS, RATE, stamp, word
from peers import ask
from playwright.sync_api import Browser, Page, sync_playwright
from program import MODEL, ROOT, Program, free_port, memory

sys.path.insert(0, str(ROOT))
from modules.conversations.conversation import Conversation
from modules.conversations.store import ConversationStore
from scripts import system_packages

MAX_LAG_SECONDS = 0.3
MAX_TASK_MS = 100.0
MIN_RATIO = 0.97
MAX_MEMORY = 260 * MB
MAX_LOST_SECONDS = 2.0

MESSAGES = 200
LIVE_TOKENS = 3000
SPEED_TOKENS = 256
LONG_CONVERSATIONS = 10
QUESTION = "Tell me a long story about a goose."
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

OPEN = """async (id) => {
  const shell = [...document.scripts].find((script) => script.type === "module" && script.src.includes("/ui/"));
  (await import(new URL("chat_client.js", shell.src))).open(id);
}"""
WATCH = """() => {
  const seen = window.benchmark = {frames: [], tasks: []};
  new PerformanceObserver((list) => list.getEntries().forEach((entry) => seen.tasks.push(entry.duration)))
    .observe({type: "longtask"});
  const deepest = (node) => {
    while (node.lastChild) node = node.lastChild;
    return node;
  };
  const words = (node) => {
    let text = "";
    for (let at = deepest(node); at && text.length < 60; at = before(at, node)) text = (at.data ?? "") + text;
    return text;
  };
  const before = (at, top) => {
    while (at !== top && !at.previousSibling) at = at.parentNode;
    return at === top ? null : deepest(at.previousSibling);
  };
  const frame = () => {
    const body = [...document.querySelectorAll("#tx-messages .tx-bot .tx-body")].at(-1);
    const found = body && words(body).match(/\\d{7}/g);
    if (found) seen.frames.push([Date.now(), Number(found.at(-1))]);
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
}"""


# -- set-up ------------------------------------------------------------------------------------------------------------


def text(first: int, tokens: int) -> str:
    return "".join(word(first + index) for index in range(tokens))


def long_conversation(messages: int = MESSAGES) -> Conversation:
    """Return a conversation with answers of about 1.2 KB with all kinds of Markdown."""
    conversation = Conversation("", title=f"{messages} messages")
    for number in range(messages // 2):
        conversation.add("user", f"Question {number}: what do geese do in winter, and why?")
        conversation.add("assistant", text(7 * number, 120))
    return conversation


@contextlib.contextmanager
def folder_with(conversations: int, parameters: dict[str, object]) -> Iterator[tuple[Path, list[str]]]:
    """Yield a folder with settings.yaml and that many long conversations in logs/, and their ids."""
    with tempfile.TemporaryDirectory(prefix="chat-page-") as name:
        folder = Path(name)
        lines = [f"{key}: {json.dumps(value)}\n" for key, value in parameters.items()]
        (folder / "settings.yaml").write_text("".join(lines))
        store = ConversationStore(folder / "logs")
        yield folder, [store.add(long_conversation()).id for _ in range(conversations)]


def serve(folder: Path, *flags: str, script: str = "server.py", port: int = 0) -> Program:
    own = ("--settings", str(folder / "settings.yaml"), "--logs-dir", str(folder / "logs"))
    return Program("--api", "--model", str(MODEL), *own, *flags, script=script, port=port)


def paced(folder: Path, port: int = 0) -> Program:
    return serve(folder, "--loader", "Paced", script="benchmarks/paced_server.py", port=port)


def wait_for_model(program: Program) -> None:
    while json.loads(program.wait_for("/v1/internal/model/info"))["model_name"] in (None, "None"):
        time.sleep(0.05)


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=system_packages.browser(), args=CHROMIUM_FLAGS)
        yield browser
        browser.close()


def opened(browser: Browser, program: Program, id: str = "") -> Page:
    """Return a page that shows a conversation, or a new one."""
    page = browser.new_page(locale="en-US", viewport={"width": 1440, "height": 900})
    page.goto(f"{program.url}/en/")
    page.locator("#tx-input").wait_for()
    page.wait_for_function("() => window.txAsk")
    page.evaluate(OPEN, id)
    if id:
        page.locator("#tx-messages [data-id]").nth(MESSAGES - 1).wait_for()
    return page


def send(page: Page, question: str = QUESTION) -> None:
    page.locator("#tx-input").fill(question)
    page.locator("#tx-input").press("Enter")


def wait_for_end(page: Page, seconds: float = 120) -> None:
    """Wait until an answer begins and ends, without the check of every frame by which Playwright would wait."""
    page.locator(".tx-answering").wait_for()
    page.wait_for_function("() => !document.querySelector('.tx-answering')", polling=250, timeout=seconds * 1000)


# -- (a) how far the browser is behind ---------------------------------------------------------------------------------


def measure_lag(browser: Browser) -> None:
    with folder_with(1, {"max_new_tokens": LIVE_TOKENS}) as (folder, (id,)), paced(folder) as program:
        wait_for_model(program)
        page = opened(browser, program, id)
        page.evaluate(WATCH)
        browser.start_tracing(page=page, categories=["toplevel"])
        send(page)
        page.locator("#tx-messages .tx-bot.tx-started").wait_for()
        page.evaluate("() => { window.benchmark.frames = []; window.benchmark.tasks = []; }")
        wait_for_end(page, LIVE_TOKENS / RATE + 60)
        seen = page.evaluate("() => window.benchmark")
        processor_ms = processor_times(json.loads(browser.stop_tracing())["traceEvents"])
        page.close()
    lags = sorted(lags_of(seen["frames"]))
    tasks = [task for task in seen["tasks"] if task >= 50] or [0.0]
    table(
        [f"{MESSAGES} messages, {LIVE_TOKENS} tokens at {RATE:.0f}/s", "median", "99 %", "longest", "number"],
        [
            ("behind the worker, ms", statistics.median(lags), percentile_of(lags), lags[-1], len(lags)),
            (
                "tasks of 50 ms or more, ms",
                statistics.median(tasks),
                percentile_of(tasks),
                max(tasks),
                len(seen["tasks"]),
            ),
            (
                "processor time of tasks, ms",
                statistics.median(processor_ms),
                percentile_of(processor_ms),
                max(processor_ms),
                len(processor_ms),
            ),
        ],
    )
    passed = lags[-1] <= MAX_LAG_SECONDS * 1000
    verdict("Browser behind the worker", f"{lags[-1]:.0f} ms", f"{MAX_LAG_SECONDS * 1000:.0f} ms at most", passed)
    verdict("Longest task", f"{max(tasks):.0f} ms", f"{MAX_TASK_MS:.0f} ms at most", max(tasks) <= MAX_TASK_MS)


def percentile_of(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def processor_times(trace: list[dict[str, Any]]) -> list[float]:
    """Return the processor time of each task of the page's main thread; other programs make a task last longer."""
    names = {(event["pid"], event["tid"]): event["args"]["name"] for event in trace if event["name"] == "thread_name"}
    return [
        event.get("tdur", 0) / 1000
        for event in trace
        if event["name"] == "ThreadControllerImpl::RunTask"
        and names.get((event["pid"], event["tid"])) == "CrRendererMain"
    ]


def lags_of(frames: list[list[int]]) -> Iterator[float]:
    """Yield how old the last word on the page was in each frame, until the first frame with the last word of all."""
    for now, shown in frames:
        yield (now - shown) % CYCLE_MS
        if shown == frames[-1][1]:
            break


# -- (b) decode speed --------------------------------------------------------------------------------------------------


def measure_speed(browser: Browser, rounds: int) -> None:
    parameters = {"max_new_tokens": SPEED_TOKENS, "temperature": 0, "ban_eos_token": True}
    with folder_with(0, parameters) as (folder, _), serve(folder) as program:
        wait_for_model(program)
        page = opened(browser, program)
        by_page, by_api = [], []
        for number in range(rounds + 1):
            rates = (speed_by_page(page, program), speed_by_api(program))
            if number:  # the first one warms up
                by_page.append(rates[0])
                by_api.append(rates[1])
        page.close()
    ratios = [ours / theirs for ours, theirs in zip(by_page, by_api, strict=True)]
    columns = ["tokens/s", "median", "lowest", "highest"]
    rows = [(n, statistics.median(r), min(r), max(r)) for n, r in (("page", by_page), ("API", by_api))]
    table(columns, [*rows, ("ratio", statistics.median(ratios), min(ratios), max(ratios))])
    ratio = statistics.median(ratios)
    verdict("Decode speed through the page", f"{ratio:.3f} of the API's", f"{MIN_RATIO} at least", ratio >= MIN_RATIO)


def speed_by_page(page: Page, program: Program) -> float:
    """Ask in a new conversation; return the tokens per second that the receipt of the answer says."""
    page.evaluate(OPEN, "")
    send(page)
    wait_for_end(page)
    newest = json.loads(program.wait_for("/chat/list"))["conversations"][0]["id"]
    message = page.locator("#tx-messages .tx-bot").last.get_attribute("data-id")
    path = f"/chat/{urllib.parse.quote(newest, safe='')}/receipt?message={message}"
    receipt = json.loads(program.wait_for(path))["receipt"]
    if receipt["tokens"]["completion"] != SPEED_TOKENS:
        sys.exit(f"The answer has {receipt['tokens']['completion']} tokens instead of {SPEED_TOKENS}.")
    return (SPEED_TOKENS - 1) / receipt["seconds"]["decode"]


def speed_by_api(program: Program) -> float:
    body = {"messages": [{"role": "user", "content": QUESTION}], "max_tokens": SPEED_TOKENS, "temperature": 0}
    return ask(program.port, "/v1/chat/completions", {**body, "ban_eos_token": True}).rate


# -- (c) memory --------------------------------------------------------------------------------------------------------


def measure_memory(browser: Browser) -> None:
    with folder_with(LONG_CONVERSATIONS, {"max_new_tokens": 300}) as (folder, ids), paced(folder) as program:
        wait_for_model(program)
        rows = [("model loaded", memory(program.pid).resident / MB)]
        page = opened(browser, program, ids[0])
        rows.append(("one page open", memory(program.pid).resident / MB))
        streams = [open_stream(program.port, id) for id in ids]
        rows.append((f"{len(ids)} conversations of {MESSAGES} messages open", memory(program.pid).resident / MB))
        send(page)
        wait_for_end(page)
        rows.append(("after an answer", memory(program.pid).resident / MB))
        for stream in streams:
            stream.close()
        page.close()
    table(["main process", "RSS, MB"], rows)
    largest = max(size for _, size in rows)
    limit = f"{MAX_MEMORY / MB:.0f} MB at most"
    verdict("Memory of the main process", f"{largest:.0f} MB", limit, largest * MB <= MAX_MEMORY)


def open_stream(port: int, id: str) -> http.client.HTTPResponse:
    """Open the stream of events of a conversation as a page does, and read until it has the whole conversation."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", f"/chat/events?lang=en&id={urllib.parse.quote(id, safe='')}")
    response = connection.getresponse()
    received = b""
    while not re.search(rb"event: conversation\ndata: .*\n\n", received):
        received += response.read1(1 << 20)
    return response


# -- (d) text lost by kill -9 ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kill:
    """`lost` seconds of text: those between the last word in the file and the kill."""

    lost: float
    whole: bool
    listed: bool


def measure_kills(browser: Browser, kills: int, seed: int) -> None:
    choice, port, outcomes = random.Random(seed), free_port(), []
    with folder_with(1, {"max_new_tokens": LIVE_TOKENS}) as (folder, _):
        for number in range(kills):
            outcomes.append(kill_once(browser, folder, port, choice.uniform(0.2, 7)))
            print(f"  kill {number + 1}: {outcomes[-1]}", flush=True)
    lost = [outcome.lost for outcome in outcomes]
    table(["seconds of text lost", "median", "most"], [(f"{kills} kills", statistics.median(lost), max(lost))])
    worst = max(lost)
    limit = f"{MAX_LOST_SECONDS:.1f} s at most"
    verdict("Text lost", f"{worst:.2f} s", limit, worst <= MAX_LOST_SECONDS)
    whole, listed = (sum(getattr(one, name) for one in outcomes) for name in ("whole", "listed"))
    verdict("Files whole", f"{whole} of {kills}", "all", whole == kills)
    verdict("Conversations listed after the next start", f"{listed} of {kills}", "all", listed == kills)


def kill_once(browser: Browser, folder: Path, port: int, seconds: float) -> Kill:
    """Kill the server that many seconds after the first word, and look at the file and at the next start."""
    before = set((folder / "logs").rglob("*.json"))
    with paced(folder, port) as program:
        wait_for_model(program)
        page = opened(browser, program)
        send(page)
        page.locator("#tx-messages .tx-bot .tx-body:not(:empty)").wait_for()
        first = stamp()
        time.sleep(seconds)
        killed = stamp()
        os.kill(program.pid, signal.SIGKILL)
        page.close()
    (file,) = set((folder / "logs").rglob("*.json")) - before
    try:
        messages = json.loads(file.read_bytes())["messages"].values()
        contents = [message["content"] for message in messages if message["role"] == "assistant"]
        words = re.findall(r"\b\d{7}\b", "".join(contents)) or [first]
        lost, whole = (int(killed) - int(words[-1])) % CYCLE_MS / 1000, True
    except (ValueError, KeyError):
        lost, whole = float("inf"), False
    listed = {one.id for one in ConversationStore(folder / "logs").list() if not one.problem}
    return Kill(lost, whole, any(file.stem in id for id in listed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ["lag", "speed", "memory", "kills"]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with session("The chat page while answers arrive"), chromium() as browser:
        if "lag" in args.only:
            measure_lag(browser)
        if "speed" in args.only:
            measure_speed(browser, args.rounds)
        if "memory" in args.only:
            measure_memory(browser)
        if "kills" in args.only:
            measure_kills(browser, args.kills, args.seed)


if __name__ == "__main__":
    main()
