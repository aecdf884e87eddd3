"""Split the body of a streamed response into events: server-sent events, or lines of JSON."""

from __future__ import annotations

from codecs import BOM_UTF8

LONGEST_EVENT = 8 << 20
"""Bytes. The last event of a llama-server repeats the prompt."""


class EventTooLong(ValueError):
    """An event of more than LONGEST_EVENT bytes."""


class LineSplitter:
    """Lines of a body that arrives in chunks, however it is cut. The ends are LF, CRLF or CR.

    A byte order mark before the first one, as programs in .NET write it, is left out.
    """

    def __init__(self) -> None:
        self._begun = bytearray()
        self._is_first = True
        self._ends_with_return = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes, without their ends. Raises EventTooLong."""
        if self._ends_with_return or b"\r" in chunk:
            chunk = self._with_plain_ends(chunk)
        *lines, rest = chunk.split(b"\n")
        if lines and self._begun:
            lines[0] = bytes(self._begun) + lines[0]
            self._begun.clear()
        if lines and self._is_first:
            lines[0] = lines[0].removeprefix(BOM_UTF8)
            self._is_first = False
        self._begun += rest
        if len(self._begun) > LONGEST_EVENT:
            raise EventTooLong
        return lines

    def finish(self) -> list[bytes]:
        """Return the last line if nothing ends it."""
        rest = bytes(self._begun).removeprefix(BOM_UTF8 if self._is_first else b"")
        self._begun.clear()
        return [rest] if rest else []

    def _with_plain_ends(self, chunk: bytes) -> bytes:
        if self._ends_with_return and chunk.startswith(b"\n"):
            chunk = chunk[1:]  # the second half of a CRLF, whose first half has ended the line
            self._ends_with_return = False
        self._ends_with_return = chunk.endswith(b"\r") or (self._ends_with_return and not chunk)
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


class JsonLines:
    """Events of a body with one JSON value a line."""

    def __init__(self) -> None:
        self._lines = LineSplitter()

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the events that `chunk` completes. Raises EventTooLong."""
        return [line for line in self._lines.feed(chunk) if line.strip()]

    def finish(self) -> list[bytes]:
        """Return the last event, which may lack the end of its line."""
        return [line for line in self._lines.finish() if line.strip()]


class ServerSentEvents:
    """The data of server-sent events. Comments, and fields other than `data` and `event`, are dropped.

    The data of an event named "error", and the value of a field "error" as older llama-servers send it, become
    `{"error": …}`.
    """

    def __init__(self) -> None:
        self._lines = LineSplitter()
        self._data: list[bytes] = []
        self._size = 0
        self._is_error = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Return the data of the events that `chunk` completes. Raises EventTooLong."""
        events: list[bytes] = []
        for line in self._lines.feed(chunk):
            if not line:
                self._end_event(events)
                continue
            name, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if name == b"data":
                self._add(value)
            elif name == b"error":
                self._is_error = True
                self._add(value)
            elif name == b"event":
                self._is_error = value == b"error"
        return events

    def finish(self) -> list[bytes]:
        """Return nothing: by the standard, an event that no empty line ends is not complete."""
        return []

    def _add(self, value: bytes) -> None:
        self._data.append(value)
        self._size += len(value) + 1
        if self._size > LONGEST_EVENT:
            raise EventTooLong

    def _end_event(self, events: list[bytes]) -> None:
        if self._data:
            data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
            events.append(_as_error(data) if self._is_error else data)
            self._data.clear()
        self._size, self._is_error = 0, False


def _as_error(data: bytes) -> bytes:
    compact = data.replace(b" ", b"")
    return data if compact.startswith(b'{"error":') else b'{"error": ' + data + b"}"
