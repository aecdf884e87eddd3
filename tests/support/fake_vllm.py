"""A program that starts and ends like `vllm serve`: `python fake_vllm.py serve PATH --uds SOCKET ...`.

It logs like vLLM, has a process of its own that ignores SIGTERM, lists the model, and answers all else with nothing. A
model called "broken" fails in that process; "short" ends a moment after it is ready; with --headless there is no
server.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

ENGINE = "import signal, time; signal.signal(15, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
BROKEN = """\
(EngineCore pid=7) ERROR 11-30 04:22:16 [core.py:1510] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-30 04:22:16 [core.py:1510]   File "/vllm/v1/engine/core.py", line 10, in run
(EngineCore pid=7) ERROR 11-30 04:22:16 [core.py:1510]     raise ValueError(
(EngineCore pid=7) ERROR 11-30 04:22:16 [core.py:1510] ValueError: No available memory for the cache blocks.
Traceback (most recent call last):
  File "/vllm/v1/engine/utils.py", line 1431, in wait_for_engine_startup
    raise RuntimeError(
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}
"""
MODELS = b'{"data": [{"id": "good", "owned_by": "vllm", "max_model_len": 512}]}'


def main() -> None:
    model = Path(sys.argv[2]).name
    if model == "broken":
        print(BROKEN, end="", flush=True)
        sys.exit(1)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    engine = subprocess.Popen([sys.executable, "-c", ENGINE], stdout=subprocess.PIPE)
    assert engine.stdout is not None
    engine.stdout.readline()
    print(f"pids {os.getpid()} {engine.pid}", flush=True)
    for percent in (0, 50, 100):
        sys.stdout.write(f"\rLoading safetensors checkpoint shards: {percent:3}% Completed | 1/2 [00:00<?, ?it/s]")
    print("\n(EngineCore pid=7) INFO 11-30 04:11:46 [backends.py:1] torch.compile takes 2.5 s in total", flush=True)
    if "--headless" in sys.argv:
        print("INFO 11-30 04:11:46 [serve.py:1] Launching vLLM (v0.32.0) headless multiproc executor, with head node")
        time.sleep(60)
    if model == "short":
        threading.Timer(0.3, _fail).start()
    _serve(sys.argv[sys.argv.index("--uds") + 1])


def _fail() -> None:
    print("RuntimeError: the engine is gone", flush=True)
    os._exit(3)


def _serve(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        while True:
            with server.accept()[0] as client:
                body = MODELS if client.recv(4096).startswith(b"GET /v1/models ") else b""
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
                client.sendall(head % len(body) + body)


if __name__ == "__main__":
    main()
