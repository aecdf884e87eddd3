"""Replicas: two processes of this program behind nginx, and two engines behind vllm-router with this program in front.

    .venv/bin/python benchmarks/replicas.py [--only processes engines] [--router /path/to/vllm-router]

The processes share the folders of models, conversations and settings, and nginx runs docs/nginx.conf with other ports.
A browser logs in, chats with one process, and another browser finds the conversation in the other. Then a process, or
an engine, is killed while it writes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import streams_sides
from figures import session, verdict
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright
from program import MODEL, ROOT, Program, free_port

sys.path.insert(0, str(ROOT))
from scripts import system_packages

ROUTER = Path(shutil.which("vllm-router") or "vllm-router")
"""In an environment of its own: `pip install vllm-router`, without vLLM; --router names it."""
KEY, USER, PASSWORD = "sk-replicas", "me", "secret"
STREAMS, TOKENS, AFTERWARDS = 40, 60, 20
SECONDS = 60_000.0
CHROMIUM_FLAGS = ["--no-sandbox", "--disable-gpu"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=("processes", "engines"), default=("processes", "engines"))
    parser.add_argument("--router", type=Path, default=ROUTER)
    args = parser.parse_args()
    os.environ.update(CROWD_RATE="20", CROWD_NUMBERS="1", FORWARDED_ALLOW_IPS="127.0.0.1")
    if "processes" in args.only:
        with session("Two processes behind nginx"), tempfile.TemporaryDirectory() as folder:
            try_processes(Path(folder))
    if "engines" in args.only:
        with session("Two engines behind vllm-router"):
            for resumes in (False, True):
                try_engines(args.router, resumes)


# -- several of our processes ------------------------------------------------------------------------------------------


def try_processes(folder: Path) -> None:
    (folder / "models").mkdir()
    (folder / "models" / MODEL.name).symlink_to(MODEL.resolve())
    shared = ("--model-dir", "models"), ("--logs-dir", "logs"), ("--character-dir", "characters")
    flags = [part for flag, name in shared for part in (flag, str(folder / name))]
    flags += ["--api", "--api-key", KEY, "--gradio-auth", f"{USER}:{PASSWORD}", "--public-host", "llm.example.com"]
    command = (*flags, "--loader", "Crowd", "--model", MODEL.name)
    script = "benchmarks/crowd_server.py"
    with (
        Program(*command, script=script) as first,
        Program(*command, script=script) as second,
        nginx(folder, first.port, second.port) as port,
    ):
        wait_until_ready(first, second)
        try_api(port, first, second)
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=system_packages.browser(), args=CHROMIUM_FLAGS)
            try_pages(browser, port, first, second)
            browser.close()


def wait_until_ready(*programs: Program) -> None:
    for program in programs:
        while json.loads(program.wait_for("/healthz"))["model"] != "ready":
            time.sleep(0.1)


@contextlib.contextmanager
def nginx(folder: Path, *ports: int) -> Iterator[int]:
    """Run nginx by docs/nginx.conf, with these ports and a free one of its own."""
    port, text = free_port(), (ROOT / "docs" / "nginx.conf").read_text(encoding="utf-8")
    for documented, used in zip((7861, 7862), ports, strict=True):
        text = text.replace(f"127.0.0.1:{documented};", f"127.0.0.1:{used};")
    text = text.replace("listen 7860;", f"listen 127.0.0.1:{port}; add_header X-Replica $upstream_addr always;")
    text = text.replace("add_header Set-Cookie $set_replica;", "add_header Set-Cookie $set_replica; add_header "
                        "X-Replica $upstream_addr always;")  # fmt: skip
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    text = text.replace("http {", f"http {{ access_log off; {paths}", 1)
    config = folder / "nginx.conf"
    config.write_text(f"daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;\n{text}", encoding="utf-8")
    command = [str(streams_sides.NGINX), "-c", str(config), "-e", str(folder / "error.log")]
    with streams_sides.process(command, port, "/healthz"):
        yield port


def try_api(port: int, *programs: Program) -> None:
    """Send streams, which both processes should answer."""
    tally = clients(port, STREAMS)
    served = [generations(program) for program in programs]
    verdict("streams of the API", f"{tally['complete']} of {STREAMS}", "all", tally["complete"] == STREAMS)
    verdict("answered by each process", str(served), "half", min(served) >= STREAMS // 2 - 2)


def generations(program: Program) -> int:
    """Return how many generations a process has begun."""
    request = urllib.request.Request(f"{program.url}/metrics", headers={"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=10) as response:
        found = re.search(r"^text_studio_generations_total (\d+)", response.read().decode(), re.MULTILINE)
    return int(found[1]) if found else 0


def clients(port: int, streams: int, model: str = "", key: str = KEY, tokens: int = TOKENS) -> dict[str, Any]:
    return json.loads(start_clients(port, streams, model, key, tokens).communicate()[0])


def start_clients(port: int, streams: int, model: str, key: str, tokens: int) -> subprocess.Popen[bytes]:
    flags = [f"--port={port}", f"--streams={streams}", f"--tokens={tokens}", f"--model={model}", f"--key={key}"]
    command = [sys.executable, "benchmarks/streams_client.py", *flags]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def try_pages(browser: Browser, port: int, first: Program, second: Program) -> None:
    contexts: dict[str, BrowserContext] = {}
    while len(contexts) < 2:  # the cookie decides, at random
        context = browser.new_context(locale="en-US")
        replica = context.request.get(f"http://127.0.0.1:{port}/healthz").headers["x-replica"]
        contexts.setdefault(replica, context)
    one, other = (contexts[f"127.0.0.1:{program.port}"] for program in (first, second))
    page, replicas = log_in(one, port)
    page.locator("#tx-input").fill("Tell the others about geese")
    page.locator("#tx-input").press("Enter")
    expect(page.locator("#tx-messages .tx-bot .tx-body")).to_contain_text("10 11 12", timeout=SECONDS)
    verdict("a chat through nginx", "answered", "answered", True)
    expected = {f"127.0.0.1:{first.port}"}
    verdict("requests of that page", f"served by {sorted(replicas)}", "one process", replicas == expected)
    expect(page.locator("#tx-conversation.tx-answering")).to_have_count(0, timeout=SECONDS)
    elsewhere, replicas = log_in(other, port)
    listed = elsewhere.locator("body")
    expect(listed).to_contain_text("Tell the others about geese", timeout=SECONDS)
    verdict("its conversation in the other process", "listed", "listed", replicas == {f"127.0.0.1:{second.port}"})
    os.kill(first.pid, signal.SIGKILL)
    tally = clients(port, AFTERWARDS)
    complete = tally["complete"]
    verdict("streams after kill -9 of one process", f"{complete} of {AFTERWARDS}", "all", complete == AFTERWARDS)
    page.goto(f"http://127.0.0.1:{port}/")
    moved = page.locator("input[name=password]").count() == 1
    verdict("its browser, after a reload", "asked to log in to the other process", "the same", moved)
    page.close()


def log_in(context: BrowserContext, port: int) -> tuple[Page, set[str]]:
    """Open the page; return it and the processes that answer its requests from now on."""
    page, replicas = context.new_page(), set[str]()
    page.goto(f"http://127.0.0.1:{port}/")
    page.on("response", lambda response: replicas.add(response.headers.get("x-replica", "?")))
    page.locator("input[name=username]").fill(USER)
    page.locator("input[name=password]").fill(PASSWORD)
    page.locator("button").click()
    expect(page.locator("#tx-send")).to_be_visible(timeout=SECONDS)
    expect(page.locator("#tx-page")).to_have_class(re.compile("show-"), timeout=SECONDS)
    return page, replicas


# -- several engines ---------------------------------------------------------------------------------------------------


def try_engines(router: Path, resumes: bool) -> None:
    """Kill one of two engines while it writes: with `resumes`, no stream may end."""
    if not router.is_file():
        print(f"  left out: {router} does not exist.")
        return
    with contextlib.ExitStack() as stack:
        sides = [stack.enter_context(streams_sides.engine(20.0)) for _ in range(2)]
        port = stack.enter_context(routed(router, [side.port for side in sides]))
        resume = ("--resume-stream", "true" if resumes else "false")
        ours = stack.enter_context(streams_sides.ours(port, *resume))
        tally = clients(ours.port, STREAMS, ours.model, "", TOKENS)
        complete = tally["complete"]
        verdict("streams through vllm-router", f"{complete} of {STREAMS}", "all", complete == STREAMS)
        running = start_clients(ours.port, STREAMS, ours.model, "", 4 * TOKENS)
        time.sleep(TOKENS / 20)
        os.kill(sides[0].pids()[0], signal.SIGKILL)
        tally = json.loads(running.communicate()[0])
        complete, faults = tally["complete"], tally["faults"]
        reported = [fault for fault in faults if fault.startswith("error:")]
        name = f"an engine killed, {'with' if resumes else 'without'} resume_stream"
        wanted = "all complete" if resumes else "half complete, the others end with an error"
        passed = complete == STREAMS if resumes else complete >= STREAMS // 2 - 2 and len(reported) == len(faults)
        verdict(name, f"{complete} of {STREAMS} complete, {len(reported)} errors", wanted, passed)
        for fault in sorted(set(faults))[:3]:
            print(f"  {faults.count(fault)} × {fault}")
        after = clients(ours.port, AFTERWARDS, ours.model, "", TOKENS)["complete"]
        verdict("the next streams", f"{after} of {AFTERWARDS}", "all", after == AFTERWARDS)


@contextlib.contextmanager
def routed(router: Path, ports: Sequence[int]) -> Iterator[int]:
    """Run vllm-router in front of engines."""
    port = free_port()
    urls = [f"http://127.0.0.1:{one}" for one in ports]
    options = ["--policy", "round_robin", "--prometheus-port", str(free_port()), "--log-level", "error"]
    command = [str(router), "--host", "127.0.0.1", "--port", str(port), "--worker-urls", *urls, *options]
    with streams_sides.process(command, port, "/health"):
        yield port


if __name__ == "__main__":
    main()
