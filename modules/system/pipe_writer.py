"""Write to a pipe in a thread of its own: whoever sends something never waits until the other side reads."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import IO

THREAD_NAME = "pipe"


class PipeWriter:
    """Writes what is sent to `pipe`, in order, and as much at once as has been sent meanwhile. Any thread may call.

    Once the other side has ended, it is lost. The thread ends with `close`.
    """

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe = pipe
        self._sent: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        threading.Thread(target=self._write_all, name=THREAD_NAME, daemon=True).start()

    def send(self, message: bytes) -> None:
        self._sent.put(message)

    def close(self) -> None:
        """Close the pipe when everything has been written. May be called again."""
        self._sent.put(None)

    def _write_all(self) -> None:
        is_open = True
        while is_open:
            messages = [self._sent.get()]
            while not self._sent.empty():
                messages.append(self._sent.get())
            is_open = None not in messages
            with contextlib.suppress(OSError):
                self._pipe.write(b"".join(message for message in messages if message is not None))
                self._pipe.flush()
        with contextlib.suppress(OSError):
            self._pipe.close()
