"""The renderer process: renders chat templates, which come from strangers, within limits. Run with `python -I`.

A request is one line of JSON: [template, common variables, [further variables of each rendering]]. The answer is one
line: a pair for each rendering, ["text", the text] or ["error", why it was refused]. A limit ends the process; its
exit code says which one. It imports the standard library and Jinja alone, since its memory is limited.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.nodes import CallBlock, Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

OUT_OF_MEMORY = 3
OUTPUT_TOO_LARGE = 4
"""Exit codes."""

# Besides Jinja's own errors: those of unexpected messages, an endless range or an endless macro.
_TEMPLATE_ERRORS = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError, NotImplementedError, AssertionError),
)
_REASON_CHARACTERS = 2000
_PR_SET_PDEATHSIG = 1


def main(memory_bytes: int, seconds: int, output_bytes: int, parent: int) -> None:
    """Answer requests until stdin ends."""
    _limit_memory(memory_bytes)
    _end_with_parent(parent)
    for line in sys.stdin.buffer:
        try:
            with _alarm(seconds):
                answer = _answer(line, output_bytes)
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        sys.stdout.buffer.write(answer)
        sys.stdout.buffer.flush()


def _answer(line: bytes, output_bytes: int) -> bytes:
    template, common, variants = json.loads(line.decode("utf-8", "surrogatepass"))
    results = [_render(template, {**common, **variant}, output_bytes) for variant in variants]
    answer = json.dumps(results, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"
    if len(answer) > output_bytes:
        os._exit(OUTPUT_TOO_LARGE)
    return answer


def _render(template: str, variables: Mapping[str, Any], output_bytes: int) -> tuple[str, str]:
    pieces, size = [], 0
    try:
        for piece in _compiled(template).generate(variables):
            size += len(piece)
            if size > output_bytes:
                os._exit(OUTPUT_TOO_LARGE)
            pieces.append(piece)
    except _TEMPLATE_ERRORS as error:
        return "error", str(error)[:_REASON_CHARACTERS] or type(error).__name__
    return "text", "".join(pieces)


# -- limits ------------------------------------------------------------------------------------------------------------


def _limit_memory(size: int) -> None:
    """Make allocations beyond `size` bytes fail, where the system can do so; a crash leaves no core file."""
    if sys.platform == "win32":
        return
    import resource

    for limit, value in ((resource.RLIMIT_AS, size), (resource.RLIMIT_CORE, 0)):
        with contextlib.suppress(ValueError, OSError):  # macOS refuses some limits
            resource.setrlimit(limit, (value, value))


def _end_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent ends, even in the middle of a rendering."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before the call
            os._exit(0)


@contextlib.contextmanager
def _alarm(seconds: int) -> Any:
    """End the process after `seconds`. The parent does so as well; this alarm is for a parent that has ended.

    No Python handler is set, since none runs before a long operation of C ends.
    """
    if sys.platform == "win32":
        yield
        return
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


# -- templates: the environment that transformers renders them in ------------------------------------------------------


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    environment.globals["namespace"] = _PublicNamespace
    return environment.from_string(template)


class _Generation(Extension):
    """Render `{% generation %}`, which marks the model's own text for training, as its content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return CallBlock(self.call_method("_render_content"), [], [], body).set_lineno(line)

    def _render_content(self, caller: Callable[[], str]) -> str:
        return caller()


class _PublicNamespace(Namespace):
    """Jinja's namespace without names that begin with an underscore, which could reach Python's internals."""

    def __init__(*args: Any, **values: Any) -> None:
        self, *mappings = args  # so that a template may set `self` as well
        public = dict(*mappings, **values)
        for name in public:
            _refuse_private(name)
        Namespace.__init__(self, public)

    def __setitem__(self, name: str, value: Any) -> None:
        _refuse_private(name)
        super().__setitem__(name, value)


def _refuse_private(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise jinja2.exceptions.SecurityError(f"a namespace cannot have a name that begins with an underscore: {name}")


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(reason: str) -> NoReturn:
    raise jinja2.TemplateError(reason)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
