"""An RPC node: a process that computes for another machine. Run as `python -m modules.engines.llamacpp.rpc_server`.

Its arguments are the address as host:port, the number of threads and "cpu" or "gpu".
"""

from __future__ import annotations

import signal
import sys
import threading
import time

from modules.engines.llamacpp import library, rpc_backend
from modules.engines.llamacpp.arguments import RPC_LIBRARY
from modules.system.rpc_node import split_address

_POLL_SECONDS = 0.2
_FAILED = 1


def main(address: str, threads: str, device: str) -> int:
    """Serve until the process is ended. Return the exit status of a failure."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python's own handler waits for native code, which never returns
    library.initialize()
    try:
        rpc_backend.load(RPC_LIBRARY)
        threading.Thread(target=_watch_clients, args=(split_address(address)[1],), daemon=True).start()
        rpc_backend.serve(address, int(threads), cpu=device == "cpu")
    except rpc_backend.RpcUnusable as error:
        print(error, file=sys.stderr)
    return _FAILED


def _watch_clients(port: int) -> None:
    while not rpc_backend.notice_lost_clients(port):
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
