"""Run a client's checks against our server, and print what passed, the versions, and the bodies that the client sent.

The scripts beside this one need the client's package; this module needs the standard library alone, so that clients may
live in environments of their own. Requests go through a recorder, because some clients are programs of their own.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
CHECK_SECONDS = 300
START_SECONDS = 300
_HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding", "accept-encoding"}
_LONG = 120  # characters of a text in a printed body
_SHOWN = 2000  # characters of a printed body


@dataclass
class Sent:
    """A request as the client sent it, and the status of its answer."""

    method: str
    path: str
    body: Any
    status: int = 0


@dataclass
class Check:
    """A check that was run: `note` is what it saw, or why it failed."""

    name: str
    passed: bool
    note: str
    requests: Sequence[Sent]


@dataclass
class Run:
    """A running server with `model` loaded; `url` is that of the recorder before it, without "/v1"."""

    url: str
    model: str
    sent: list[Sent]
    checks: list[Check] = field(default_factory=list)

    def check(self, name: str, work: Callable[[], object]) -> None:
        """Run `work`, which raises if the client did not get what it should, and returns a note. Prints one line."""
        first = len(self.sent)
        done: Future[object] = Future()

        def run() -> None:
            try:
                done.set_result(work())
            except Exception as error:  # of whatever kind: the client failed
                done.set_exception(error)

        threading.Thread(target=run, daemon=True).start()  # a client that hangs must not keep the script running
        _, late = wait([done], CHECK_SECONDS)
        error = TimeoutError(f"no end within {CHECK_SECONDS} s") if late else done.exception()
        note = f"{type(error).__name__}: {error}" if error else str(done.result() or "")
        self.checks.append(Check(name, error is None, _shortened(" ".join(note.split())), self.sent[first:]))
        print(f"{'passed' if error is None else 'FAILED'}  {name}: {self.checks[-1].note}", flush=True)


@contextlib.contextmanager
def client_run(description: str | None, packages: Sequence[str]) -> Iterator[Run]:
    """Serve a model for the checks in the block, print the report after it, and exit with 1 if a check failed.

    `description` is shown by `--help`; of `packages` the versions are printed.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running server, such as http://127.0.0.1:7860; without it one is started")
    parser.add_argument("--model", type=Path, default=MODEL, help="the model of the server that is started")
    parser.add_argument("--python", default=str(ROOT / ".venv/bin/python"), help="the Python of that server")
    parser.add_argument("--bodies", action="store_true", help="print the bodies that the client sent")
    args = parser.parse_args()
    with _server(args.url, args.model, args.python) as address, _recorder(address) as (url, sent):
        run = Run(url, args.model.name, sent)
        yield run
    _print_report(run, packages, args.bodies)
    sys.exit(not all(check.passed for check in run.checks))


def expect(condition: object, seen: object) -> None:
    """Raise AssertionError with what was seen instead, unless `condition` holds."""
    if not condition:
        raise AssertionError(f"got {seen!r}")


# -- server ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _server(url: str | None, model: Path, python: str) -> Iterator[str]:
    """Yield the address of a server: `url`, or one that is started with `model`."""
    if url:
        yield url.rstrip("/")
        return
    port = _free_port()
    flags = ["--api", "--nowebui", "--listen-port", str(port), "--model-dir", str(model.parent), "--model", model.name]
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([python, "server.py", *flags], cwd=ROOT, stdout=output, stderr=output)
        try:
            address = f"http://127.0.0.1:{port}"
            if not _is_ready(address, process):
                output.seek(0)
                sys.exit(f"server.py did not load {model}:\n{output.read().decode(errors='replace')}")
            yield address
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(60)


def _is_ready(address: str, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the model is loaded; return whether it was."""
    netloc = urlsplit(address).netloc
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.2)
        connection = http.client.HTTPConnection(netloc, timeout=START_SECONDS)
        with contextlib.suppress(OSError):
            body = json.dumps({"text": "counted once a model is loaded"})
            connection.request("POST", "/v1/internal/token-count", body, {"Content-Type": "application/json"})
            if connection.getresponse().status == 200:
                return True
        connection.close()
    return False


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


# -- recorder ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _recorder(address: str) -> Iterator[tuple[str, list[Sent]]]:
    """Yield the address of a proxy before the server at `address`, and the list of the requests that it passes on."""
    sent: list[Sent] = []
    handler = type("Handler", (_Recorder,), {"netloc": urlsplit(address).netloc, "sent": sent})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{proxy.server_port}", sent
        proxy.shutdown()


class _Recorder(BaseHTTPRequestHandler):
    """Passes requests on, and answers as they arrive, piece by piece; each connection carries one request."""

    netloc: str
    sent: list[Sent]

    def do_GET(self) -> None:
        self._pass_on()

    do_POST = do_DELETE = do_OPTIONS = do_GET

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        record = Sent(self.command, self.path, _decoded(body))
        self.sent.append(record)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        connection = http.client.HTTPConnection(self.netloc, timeout=CHECK_SECONDS)
        connection.request(self.command, self.path, body or None, headers)
        answer = connection.getresponse()
        record.status = answer.status
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        with contextlib.suppress(ConnectionError):  # the client has seen enough
            while piece := answer.read1(65536):
                self.wfile.write(piece)
        connection.close()

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing: the report lists the requests."""


def _decoded(body: bytes) -> Any:
    try:
        return json.loads(body) if body else None
    except ValueError:
        return f"<{len(body)} bytes>"


# -- report ------------------------------------------------------------------------------------------------------------


def _print_report(run: Run, packages: Sequence[str], bodies: bool) -> None:
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    print(f"\n{time.strftime('%Y-%m-%d %H:%M')}, Python {platform.python_version()}, {versions}; model: {run.model}")
    print(f"{sum(check.passed for check in run.checks)} of {len(run.checks)} passed\n")
    rows = [("check", "result", "requests")]
    for check in run.checks:
        requests = ", ".join(f"{request.method} {request.path} {request.status}" for request in check.requests)
        rows.append((check.name, "passed" if check.passed else "FAILED", requests))
    for name, result, requests in rows:
        print(f"  {name:<{max(len(row[0]) for row in rows)}}  {result:<6}  {requests}")
    print()
    for check in run.checks:
        for request in check.requests:
            if request.body is not None:
                fields = ", ".join(request.body) if isinstance(request.body, dict) else ""
                text = json.dumps(_with_short_texts(request.body), ensure_ascii=False) if bodies else fields
                print(f"  {request.path} ({check.name}): {text[:_SHOWN]}")


def _shortened(text: str) -> str:
    return text if len(text) <= _LONG else text[:_LONG] + "…"


def _with_short_texts(body: Any) -> Any:
    if isinstance(body, dict):
        return {name: _with_short_texts(value) for name, value in body.items()}
    if isinstance(body, list):
        return [_with_short_texts(value) for value in body]
    return _shortened(body) if isinstance(body, str) else body


if __name__ == "__main__":
    sys.exit(f"Run one of the scripts beside it: {', '.join(sorted(os.listdir(Path(__file__).parent)))}")
