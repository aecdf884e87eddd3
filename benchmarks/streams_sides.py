"""The programs that streams.py puts between its clients and its engine, each started for one run."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from numbered_engine import MODEL
from program import ROOT, Program, free_port, interrupt, process_tree

START_SECONDS = 120.0
LITELLM = Path(shutil.which("litellm") or "litellm")
"""In an environment of its own: `pip install 'litellm[proxy]==1.100.0'`; --litellm names it."""
NGINX = Path(shutil.which("nginx") or "/usr/sbin/nginx")
KEY = "sk-streams"


@dataclass(frozen=True)
class Side:
    """A program that is ready: its port, the page that says so, the model's name there, and its key."""

    port: int
    health: str
    pids: Callable[[], list[int]]
    model: str = MODEL
    key: str = ""
    has_page: bool = False


@contextlib.contextmanager
def engine(rate: float, *more: str) -> Iterator[Side]:
    """Run the engine of numbered tokens, with `more` flags."""
    port = free_port()
    command = [sys.executable, "benchmarks/numbered_engine.py", "--port", str(port), "--rate", str(rate), *more]
    with process(command, port, "/health") as side:
        yield side


@contextlib.contextmanager
def direct(upstream: int) -> Iterator[Side]:
    """Put nothing between."""
    yield Side(upstream, "/health", list)


@contextlib.contextmanager
def ours(upstream: int, *more: str) -> Iterator[Side]:
    """Run this program with the loader Remote, and `more` flags."""
    flags = ("--api", "--nowebui", "--loader", "Remote", "--server-streams", "2000", *more)
    with _ours("--server-url", f"http://127.0.0.1:{upstream}", *flags) as side:
        yield side


@contextlib.contextmanager
def page(upstream: int) -> Iterator[Side]:
    """Run this program with the loader Remote and its page."""
    flags = ("--api", "--loader", "Remote", "--server-streams", "2000")
    with _ours("--server-url", f"http://127.0.0.1:{upstream}", *flags) as side:
        yield dataclasses.replace(side, has_page=True)


@contextlib.contextmanager
def crowd(upstream: int) -> Iterator[Side]:
    """Run this program with an engine of its own that writes numbered tokens: what the API alone takes."""
    model = next((ROOT / "models").glob("*.gguf"))
    flags = ("--api", "--nowebui", "--loader", "Crowd", "--model", model.name)
    with _ours(*flags, script="benchmarks/crowd_server.py", variables={"CROWD_NUMBERS": "1"}) as side:
        yield side


@contextlib.contextmanager
def _ours(*flags: str, script: str = "server.py", variables: Mapping[str, str] | None = None) -> Iterator[Side]:
    with Program(*flags, script=script, variables=variables) as program:
        program.wait_for("/healthz")
        while json.loads(program.wait_for("/healthz"))["model"] != "ready":
            time.sleep(0.1)
        yield Side(program.port, "/healthz", lambda: list(process_tree(program.pid)), "")


@contextlib.contextmanager
def litellm(upstream: int) -> Iterator[Side]:
    """Run LiteLLM's proxy with one worker, as it starts by default."""
    port = free_port()
    upstreams = {"model": f"openai/{MODEL}", "api_base": f"http://127.0.0.1:{upstream}/v1", "api_key": "none"}
    config = {
        "model_list": [{"model_name": MODEL, "litellm_params": upstreams}],
        "general_settings": {"master_key": KEY},
        "litellm_settings": {"telemetry": False},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(json.dumps(config), encoding="utf-8")  # YAML contains JSON
        arguments = ["--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
        with process([str(LITELLM), *arguments], port, "/health/liveliness", key=KEY) as side:
            yield side


_NGINX_CONFIG = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 8192; }}
http {{
    access_log off; client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    upstream engine {{ server 127.0.0.1:{upstream}; keepalive 64; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ proxy_pass http://engine; proxy_http_version 1.1; proxy_set_header Connection "";
                      proxy_buffering off; proxy_read_timeout 600s; }}
    }}
}}
"""


@contextlib.contextmanager
def nginx(upstream: int) -> Iterator[Side]:
    """Run nginx with one worker, which passes on what it gets at once."""
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "nginx.conf"
        path.write_text(_NGINX_CONFIG.format(folder=folder, port=port, upstream=upstream), encoding="utf-8")
        with process([str(NGINX), "-c", str(path), "-e", f"{folder}/error.log"], port, "/health") as side:
            yield side


@contextlib.contextmanager
def process(command: Sequence[str], port: int, health: str, key: str = "") -> Iterator[Side]:
    with tempfile.TemporaryFile() as output:
        environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_PROXY": "*"}
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        try:
            if not _answers(f"http://127.0.0.1:{port}{health}", process):
                output.seek(0)
                sys.exit(f"{command[0]} did not start:\n{output.read().decode(errors='replace')[-3000:]}")
            yield Side(port, health, lambda: list(process_tree(process.pid)), key=key)
        finally:
            interrupt(process)


def _answers(url: str, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return True
        time.sleep(0.1)
    return False


SIDES = {"direct": direct, "ours": ours, "page": page, "crowd": crowd, "litellm": litellm, "nginx": nginx}
