"""End a running `llama_decode` from another thread."""

from __future__ import annotations

import ctypes
import os

import llama_cpp.llama_cpp as native


class AbortFlag:
    """One byte that llama.cpp polls while it computes, so that another thread can end a decode within a millisecond.

    llama.cpp calls its abort callback once per graph node, a thousand times a token. A Python function would need the
    GIL every time. The callback is therefore C's `strlen`, and the flag is the string it measures: "" has length 0 and
    goes on, "\\1" has length 1 and aborts.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL("msvcrt" if os.name == "nt" else None)
        self._strlen = ctypes.cast(libc.strlen, native.ggml_abort_callback)
        self._no_callback = native.ggml_abort_callback()
        self._string = ctypes.create_string_buffer(2)
        self._attached: bool | None = None

    def attach(self, context: object, enabled: bool) -> None:
        """Let decodes of `context` poll the flag, or ignore it if not `enabled`."""
        if enabled is not self._attached:
            self._attached = enabled
            callback = self._strlen if enabled else self._no_callback
            native.llama_set_abort_callback(context, callback, ctypes.cast(self._string, ctypes.c_void_p))

    def set(self) -> None:
        self._string[0] = b"\1"

    def clear(self) -> None:
        self._string[0] = b"\0"
