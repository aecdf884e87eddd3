"""The programs of this kind that a request has passed, by which one that would come back to any of them is refused.

A model may be on a server that is another program of this kind, or this one, and the models of that one are on servers
as well. Every request to a server names the programs that it has passed, in a header.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from functools import cache

from modules.core.server_errors import RequestLoops

HEADER = "Text-Studio-Route"
VARIABLE = "TEXT_STUDIO_PROGRAM"
"""The variable by which workers learn the id of the program to which they belong."""
MOST_PROGRAMS = 8

_ID = re.compile("[0-9a-f]{16}")
_passed: ContextVar[tuple[str, ...]] = ContextVar("passed", default=())


@cache
def program() -> str:
    """Return a random id of this program, the same in its workers."""
    return os.environ.pop(VARIABLE, "") or secrets.token_hex(8)


def passed() -> tuple[str, ...]:
    """Return the programs that the request has passed which is served in this context, without this one."""
    return _passed.get()


@contextlib.contextmanager
def passing(programs: Sequence[str]) -> Iterator[None]:
    """Serve a request that has passed these programs."""
    token = _passed.set(tuple(programs))
    try:
        yield
    finally:
        _passed.reset(token)


def header_value() -> str:
    """Return the value of HEADER for a request to a server."""
    return ",".join((*_passed.get(), program()))


def parse(value: str) -> tuple[str, ...]:
    """Return the programs in a value of HEADER that has arrived. Raises RequestLoops if it must not go on."""
    programs = tuple(_ID.findall(value))
    if program() in programs or len(programs) >= MOST_PROGRAMS:
        raise RequestLoops(MOST_PROGRAMS)
    return programs
