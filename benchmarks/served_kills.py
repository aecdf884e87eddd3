"""Kill a llama-server in the middle of an answer: alone, and as one of two behind a router.

    .venv/bin/python benchmarks/served_kills.py --llama-server PATH [--router PATH] [--kills 30] [--seed 1] [--short]

The engine of modules/engines/served generates greedily; each answer is compared with the same one undisturbed. Alone,
it must end with ServerLost, and its text must be the beginning of the whole. Of two servers, the other one must go on:
behind `--router`, the program vllm-router, or else behind a proxy of this script that connects to one that runs.
The rest of a resumed answer may differ from the undisturbed one, as tokens that are evaluated together have slightly
other logits than one by one; what was shown before the kill never does. The exit status is 0 if all held.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from modules.core.events import ENDS, Done, Event, Failed, Text
from modules.core.paths import ROOT
from modules.core.prompt import Prompt
from modules.core.server_errors import ServerLost
from modules.engines.served.engine import ServedEngine
from modules.engines.served.target import Target
from modules.loaders.generation_settings import resolve
from modules.options.option import Value

MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PROMPTS = ("Once upon a time", "用中文数数：一、二、三、", "Emoji list: 😀 😃 😄")
TOKENS = 120
STOPS = ["\nQ:"]
OPTIONS: dict[str, Value] = {
    "server_model": "",
    "server_kind": "auto",
    "server_prompts": "auto",
    "n_ctx": 0,
    "server_streams": 8,
    "server_timeout": 60.0,
    "resume_stream": True,
}
FIRST_PORT = 18520


class LlamaServer:
    """A llama-server that can be killed and started again on the same port."""

    def __init__(self, program: Path, model: Path, port: int) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self._command = [str(program), "-m", str(model), "--port", str(port), "-c", "2048", "-np", "2", "-t", "1"]
        self._environment = os.environ | {"LD_LIBRARY_PATH": str(program.resolve().parent)}
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it unless it runs, and wait until it can answer."""
        if not self.runs:
            silent = subprocess.DEVNULL
            self.process = subprocess.Popen(self._command, env=self._environment, stdout=silent, stderr=silent)
        wait_for(f"{self.url}/health")

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def is_busy(self) -> bool:
        """Whether it is generating."""
        with urllib.request.urlopen(f"{self.url}/slots", timeout=5) as response:
            return any(slot["is_processing"] for slot in json.load(response))

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


def wait_for(url: str, seconds: float = 60) -> None:
    ends_at = time.monotonic() + seconds
    while time.monotonic() < ends_at:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=2).close()
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing answers at {url}")


class Proxy:
    """Connects each client to one of the servers that run."""

    def __init__(self, port: int, servers: Sequence[LlamaServer]) -> None:
        self.url, self._servers = f"http://127.0.0.1:{port}", servers
        self._listener = socket.create_server(("127.0.0.1", port), backlog=64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        for server in self._servers:
            with contextlib.suppress(OSError):
                upstream = socket.create_connection(("127.0.0.1", server.port), 1)
                threading.Thread(target=_pump, args=(client, upstream), daemon=True).start()
                _pump(upstream, client)
                return
        client.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while chunk := source.recv(1 << 16):
            target.sendall(chunk)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


@dataclass
class Outcome:
    """An answer: its text, how it ended, and how long it took."""

    text: str
    end: Event
    seconds: float


class Client:
    """A served engine and the numbers of its calls."""

    def __init__(self, url: str) -> None:
        self.engine = ServedEngine.open(Target.parse(url), OPTIONS, lambda progress: None)
        self._calls = 0

    def generate(self, prompt: str) -> Outcome:
        self._calls += 1
        began, parts = time.monotonic(), []
        params = resolve({"temperature": 0.0, "max_new_tokens": TOKENS}, STOPS)
        self.engine.submit_text(self._calls, Prompt(prompt), params)
        while True:
            for _, event in self.engine.step():
                if isinstance(event, Text):
                    parts.append(event.text)
                if isinstance(event, ENDS):
                    return Outcome("".join(parts), event, time.monotonic() - began)


def disturbed(client: Client, prompt: str, servers: Sequence[LlamaServer], share: float) -> tuple[Outcome, Outcome]:
    """Return an answer undisturbed, and the same one whose server is killed after this share of its time."""
    whole = client.generate(prompt)
    assert isinstance(whole.end, Done), whole.end

    def kill() -> None:
        for server in servers:
            if server.is_busy:
                server.kill()
                return  # the answer may go on at the next one by now

    timer = threading.Timer(share * whole.seconds, kill)
    timer.start()
    outcome = client.generate(prompt)
    timer.join()
    return whole, outcome


def kill_alone(server: LlamaServer, kills: int, chance: random.Random) -> bool:
    client, lost, complete = Client(server.url), 0, 0
    for number in range(kills):
        whole, outcome = disturbed(client, PROMPTS[number % len(PROMPTS)], [server], chance.uniform(0.05, 0.95))
        is_lost = isinstance(outcome.end, Failed) and isinstance(outcome.end.error, ServerLost)
        lost += is_lost and whole.text.startswith(outcome.text)
        complete += isinstance(outcome.end, Done) and outcome.text == whole.text  # it was faster this time
        server.start()
    client.engine.close()
    print(f"alone: {kills} answers, {lost} lost with their text kept, {complete} had ended before the kill")
    return lost + complete == kills


def kill_one_of_two(url: str, servers: Sequence[LlamaServer], kills: int, chance: random.Random) -> bool:
    client, killed, done, equal = Client(url), 0, 0, 0
    for number in range(kills):
        whole, outcome = disturbed(client, PROMPTS[number % len(PROMPTS)], servers, chance.uniform(0.05, 0.95))
        killed += sum(not server.runs for server in servers)
        done += isinstance(outcome.end, Done)
        equal += isinstance(outcome.end, Done) and outcome.text == whole.text
        if outcome.text != whole.text:
            print(f"  {outcome.end}\n  {whole.text!r}\n  {outcome.text!r}")
        for server in servers:
            server.start()
    client.engine.close()
    print(f"one of two: {kills} answers, {killed} kills, {done} complete, {equal} equal to the undisturbed one")
    return done == kills


@contextlib.contextmanager
def router(program: Path, servers: Sequence[LlamaServer], port: int) -> Iterator[str]:
    command = [str(program), "--host", "127.0.0.1", "--port", str(port), "--policy", "round_robin"]
    command += ["--worker-urls", *(server.url for server in servers), "--prometheus-port", str(port + 1)]
    command += ["--cb-timeout-duration-secs", "1", "--health-check-interval-secs", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(f"http://127.0.0.1:{port}/health")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-server", type=Path, required=True, help="the program llama-server")
    parser.add_argument("--router", type=Path, help="the program vllm-router")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="four kills")
    args = parser.parse_args()
    kills, chance = 4 if args.short else args.kills, random.Random(args.seed)
    servers = [LlamaServer(args.llama_server, args.model, FIRST_PORT + number) for number in (0, 1)]
    try:
        for server in servers:
            server.start()
        holds = kill_alone(servers[0], kills, chance)
        if args.router is None:
            proxy = Proxy(FIRST_PORT + 2, servers)
            holds &= kill_one_of_two(proxy.url, servers, kills, chance)
        else:
            with router(args.router, servers, FIRST_PORT + 3) as url:
                holds &= kill_one_of_two(url, servers, kills, chance)
    finally:
        for server in servers:
            server.kill()
    print("all held" if holds else "NOT all held")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
