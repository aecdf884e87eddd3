"""Two RPC nodes on loopback and in network namespaces: the same text, and what is said when one of them is lost.

    .venv/bin/python benchmarks/rpc.py [--only text busy kill freeze cut] [--model FILE]

text: greedy text of two nodes, of llama.cpp and llamacpp_HF, against that of this machine alone. busy: a second
program wants the same nodes. kill: SIGKILL of a node during an answer. freeze: SIGSTOP, then Unload. cut: the nodes are
in two network namespaces, and the cable of one is pulled and plugged in again (needs root). After each loss the model
is loaded again. Each line is one check; the exit status is 0 if all held. Nothing here measures speed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

from program import MODEL, Program, free_port  # noqa: E402

from modules.core.rpc_errors import NodeError  # noqa: E402
from modules.system import rpc_node  # noqa: E402

PROMPT = "Once upon a time, in a small village by the sea,"
SILENCE_LIMIT = 70.0
"""Seconds until a frozen or unplugged node is named: 60 s without an event, two looks and a question of 3 s."""
NETWORK = "10.213.7"
LONG = {"prompt": PROMPT, "max_tokens": 4000, "ban_eos_token": True, "temperature": 0, "stream": True}


class Node:
    """`server.py --rpc-server` at an address, in a network namespace if one is named."""

    def __init__(self, address: str, namespace: str = "") -> None:
        self.address, self.namespace = address, namespace
        self.start()

    def start(self) -> None:
        prefix = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        command = [*prefix, sys.executable, "server.py", "--rpc-server", self.address, "--threads", "1"]
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.wait_until_free(60)

    def wait_until_free(self, seconds: float) -> float:
        """Wait until the node answers questions; return how long that took."""
        began = time.monotonic()
        while not self.is_free():
            if time.monotonic() - began > seconds:
                raise RuntimeError(f"{self.address} does not answer after {seconds:.0f} s")
            time.sleep(0.1)
        return time.monotonic() - began

    def is_free(self) -> bool:
        with contextlib.suppress(NodeError):
            return bool(rpc_node.ask(self.address, 1.0).devices)
        return False

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


class Checks:
    """Prints each check; `failed` counts those that did not hold."""

    failed = 0

    def check(self, name: str, held: object, detail: str = "") -> None:
        self.failed += not held
        print(f"{'ok  ' if held else 'FAIL'} {name}{': ' + detail if detail else ''}", flush=True)


def request(program: Program, path: str, body: object = None) -> tuple[int, Any]:
    """POST JSON and return the status and the decoded answer."""
    headers = {"Content-Type": "application/json", "Accept-Language": "en"}
    sent = urllib.request.Request(program.url + path, json.dumps(body).encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(sent, timeout=300) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def load(program: Program, model: str, nodes: list[Node], **args: object) -> tuple[int, str]:
    options = {"n_ctx": 4096, "threads": 1, "threads_batch": 1, **args}
    if nodes:
        options |= {"rpc": ",".join(node.address for node in nodes), "n_gpu_layers": -1}
    status, answer = request(program, "/v1/internal/model/load", {"model_name": model, "args": options})
    return status, "" if status == 200 else answer["error"]["message"]


def complete(program: Program, tokens: int = 60) -> str:
    body = {"prompt": PROMPT, "max_tokens": tokens, "temperature": 0}
    status, answer = request(program, "/v1/completions", body)
    text: str = answer["choices"][0]["text"] if status == 200 else f"{status} {answer}"
    return text


class Answer:
    """A long answer that is being streamed: its text, and the error that ends it."""

    def __init__(self, program: Program) -> None:
        self.text, self.error = "", ""
        self._url = program.url + "/v1/completions"
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()
        wait_for(lambda: self.text or self.error, 60)

    def _read(self) -> None:
        sent = urllib.request.Request(self._url, json.dumps(LONG).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(sent, timeout=300) as response:
            for line in response:
                if line.startswith(b"data: {"):
                    event = json.loads(line[6:])
                    self.error = event["error"]["message"] if "error" in event else self.error
                    self.text += "".join(choice.get("text", "") for choice in event.get("choices", ()))

    def seconds_until_end(self, limit: float) -> float:
        began = time.monotonic()
        self.thread.join(limit)
        return time.monotonic() - began


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


@contextlib.contextmanager
def running_nodes(*places: tuple[str, str]) -> Iterator[list[Node]]:
    nodes: list[Node] = []
    try:
        for address, namespace in places or [(f"127.0.0.1:{free_port()}", "") for _ in range(2)]:
            nodes.append(Node(address, namespace))
        yield nodes
    finally:
        for node in nodes:
            node.close()


# -- checks ----------------------------------------------------------------------------------------------------------


def text(checks: Checks, program: Program, model: str) -> None:
    with running_nodes() as nodes:
        for loader in ("llama.cpp", "llamacpp_HF"):
            load(program, model, [], loader=loader)
            expected = complete(program)
            status, why = load(program, model, nodes, loader=loader)
            checks.check(
                f"{loader}: two nodes write the same text", status == 200 and complete(program) == expected, why
            )
        program.unload()
        waited = max(node.wait_until_free(10) for node in nodes)
        checks.check("Unload leaves the nodes free", waited < 3, f"{waited:.1f} s")


def busy(checks: Checks, program: Program, model: str, flags: list[str]) -> None:
    with running_nodes() as nodes, Program(*flags) as other:
        other.wait_for("/healthz")
        load(program, model, nodes)
        began = time.monotonic()
        status, why = load(other, model, nodes)
        seconds = time.monotonic() - began
        checks.check("another program is told that a node is in use", status == 409 and "in use" in why, why)
        checks.check("it is told within 6 s", seconds < 6, f"{seconds:.1f} s")
        checks.check("the first program still answers", len(complete(program, 10)) > 5)
        program.unload()


def kill(checks: Checks, program: Program, model: str) -> None:
    with running_nodes() as nodes:
        load(program, model, nodes)
        answer = Answer(program)
        nodes[1].close()
        seconds = answer.seconds_until_end(30)
        named = nodes[1].address in answer.error and nodes[0].address not in answer.error
        checks.check("SIGKILL: one sentence names the node", named and "\n" not in answer.error, answer.error)
        checks.check("SIGKILL: the answer ends within 6 s", seconds < 6, f"{seconds:.1f} s")
        status, why = load(program, model, nodes)
        checks.check("while it is gone, Load says so", status == 502 and nodes[1].address in why, why)
        _load_again(checks, program, model, nodes, start=nodes[1])


def freeze(checks: Checks, program: Program, model: str) -> None:
    with running_nodes() as nodes:
        load(program, model, nodes)
        answer = Answer(program)
        os.kill(nodes[0].process.pid, signal.SIGSTOP)
        seconds = answer.seconds_until_end(SILENCE_LIMIT + 20)
        named = nodes[0].address in answer.error and nodes[1].address not in answer.error
        checks.check("SIGSTOP: one sentence names the node", named, answer.error)
        checks.check(f"SIGSTOP: within {SILENCE_LIMIT:.0f} s", seconds < SILENCE_LIMIT, f"{seconds:.1f} s")
        os.kill(nodes[0].process.pid, signal.SIGCONT)
        _load_again(checks, program, model, nodes)
        answer = Answer(program)
        os.kill(nodes[0].process.pid, signal.SIGSTOP)
        time.sleep(2)
        began = time.monotonic()
        program.unload()
        answer.thread.join(10)
        checks.check("SIGSTOP: Unload works", time.monotonic() - began < 10, f"{time.monotonic() - began:.1f} s")
        os.kill(nodes[0].process.pid, signal.SIGCONT)
        _load_again(checks, program, model, nodes)


def cut(checks: Checks, program: Program, model: str) -> None:
    with namespaces() as (first, second), running_nodes(first, second) as nodes:
        load(program, model, nodes)
        answer = Answer(program)
        _link(second[1], "down")
        seconds = answer.seconds_until_end(SILENCE_LIMIT + 20)
        named = nodes[1].address in answer.error and nodes[0].address not in answer.error
        checks.check("cable pulled: one sentence names the node", named, answer.error)
        checks.check(f"cable pulled: within {SILENCE_LIMIT:.0f} s", seconds < SILENCE_LIMIT, f"{seconds:.1f} s")
        status, why = load(program, model, nodes)
        checks.check("while it is out, Load says so", status in (409, 502) and nodes[1].address in why, why)
        _link(second[1], "up")
        waited = nodes[1].wait_until_free(90)
        checks.check("plugged in again, the node becomes free by itself", True, f"{waited:.1f} s")
        _load_again(checks, program, model, nodes)


def _load_again(checks: Checks, program: Program, model: str, nodes: list[Node], start: Node | None = None) -> None:
    if start is not None:
        start.start()
    for node in nodes:
        node.wait_until_free(30)
    status, why = load(program, model, nodes)
    checks.check("Load works again", status == 200 and len(complete(program, 10)) > 5, why)


# -- namespaces --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def namespaces() -> Iterator[list[tuple[str, str]]]:
    """Make two network namespaces, each connected by a cable of its own. Yield addresses of nodes, and the names."""
    places = []
    with contextlib.ExitStack() as stack:
        for number in (1, 2):
            name, here, network = f"rpc-bench-{number}", f"rpcb{number}", f"{NETWORK}{number}"
            _ip("netns", "add", name)
            stack.callback(_ip, "netns", "del", name)
            _ip("link", "add", here, "type", "veth", "peer", "name", "cable", "netns", name)
            _ip("addr", "add", f"{network}.1/24", "dev", here)
            _ip("link", "set", here, "up")
            _ip("-n", name, "addr", "add", f"{network}.2/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
            places.append((f"{network}.2:50052", name))
        yield places


def _link(namespace: str, state: str) -> None:
    _ip("-n", namespace, "link", "set", "cable", state)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def main() -> int:
    checks, parser = Checks(), argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=("text", "busy", "kill", "freeze", "cut"))
    parser.add_argument("--model", type=Path, default=MODEL)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        flags = ["--api", "--nowebui", "--model-dir", str(arguments.model.parent), "--logs-dir", folder]
        model = arguments.model.name
        parts: dict[str, Callable[[Program], None]] = {
            "text": lambda program: text(checks, program, model),
            "busy": lambda program: busy(checks, program, model, flags),
            "kill": lambda program: kill(checks, program, model),
            "freeze": lambda program: freeze(checks, program, model),
            "cut": lambda program: cut(checks, program, model),
        }
        for name in arguments.only or parts:
            with Program(*flags) as program:
                program.wait_for("/healthz")
                parts[name](program)
    return 1 if checks.failed else 0


if __name__ == "__main__":
    sys.exit(main())
