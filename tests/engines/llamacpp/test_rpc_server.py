"""An RPC node that cannot serve: why it ends. tests/engines/llamacpp/test_rpc.py is about those that can."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.core.paths import ROOT
from modules.engines.llamacpp import rpc_server
from tests.engines.llamacpp.test_rpc_backend import is_watched
from tests.support.echo_plans import wait_until


@pytest.fixture(autouse=True)
def _keep_signals() -> Iterator[None]:
    handler = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, handler)


def test_a_node_whose_address_is_in_use_ends_and_has_watched_for_clients(capfd: pytest.CaptureFixture[str]) -> None:
    before = set(threading.enumerate())
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert rpc_server.main(f"127.0.0.1:{port}", "1", "cpu") == 1
        assert signal.getsignal(signal.SIGINT) is signal.SIG_DFL, "native code never returns to Python's handler"
        wait_until(lambda: not set(threading.enumerate()) - before)
        assert is_watched(listener)
    assert "Failed to create server socket" in capfd.readouterr().err


def test_a_node_whose_library_cannot_be_loaded_says_so(tmp_path: Path) -> None:
    library = tmp_path / "libggml-rpc.so"
    library.write_bytes(b"no library")
    program = (
        "import sys, pathlib; from modules.engines.llamacpp import rpc_server; "
        f"rpc_server.RPC_LIBRARY = pathlib.Path({str(library)!r}); sys.exit(rpc_server.main('127.0.0.1:1', '1', 'cpu'))"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, text=True, capture_output=True, check=False)
    assert ended.returncode == 1 and f"{library} cannot be loaded\n" in ended.stderr
