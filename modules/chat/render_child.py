"""Render chat templates, which come from strangers, in a process of `modules/system/limited_child.py`.

A request is one line of JSON: [template, common variables, [further variables of each rendering]]. The answer is one
line with a list for each rendering: ["text", the text, 0], or ["error", why it was refused, the line of the template or
0]. It imports the standard library and Jinja alone, since its memory is limited.
"""

from __future__ import annotations

import json
import os
import traceback
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

OUTPUT_TOO_LARGE = 4
"""The exit code, as in `modules/system/limited_child.py`."""

# Besides Jinja's own errors: those of unexpected messages, an endless range or an endless macro.
_TEMPLATE_ERRORS = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError, NotImplementedError, AssertionError),
)
_REASON_CHARACTERS = 2000
_TEMPLATE_FILES = ("<template>", "<unknown>")
"""What Jinja calls the file of a template that is none."""


def answer(line: bytes, output_bytes: int) -> bytes:
    """Return the answer to a request. Ends the process if it would have more than `output_bytes`."""
    template, common, variants = json.loads(line.decode("utf-8", "surrogatepass"))
    results = [_render(template, {**common, **variant}, output_bytes) for variant in variants]
    return json.dumps(results, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _render(template: str, variables: Mapping[str, Any], output_bytes: int) -> tuple[str, str, int]:
    pieces, size = [], 0
    try:
        for piece in _compiled(template).generate(variables):
            size += len(piece)
            if size > output_bytes:
                os._exit(OUTPUT_TOO_LARGE)
            pieces.append(piece)
    except _TEMPLATE_ERRORS as error:
        return "error", str(error)[:_REASON_CHARACTERS] or type(error).__name__, _line_of(error)
    return "text", "".join(pieces), 0


def _line_of(error: Exception) -> int:
    """Return the line of the template at which `error` was raised, 0 if it is not known.

    Jinja rewrites tracebacks so that the frames of a template have its lines.
    """
    if isinstance(error, jinja2.TemplateSyntaxError):
        return error.lineno
    frames = traceback.walk_tb(error.__traceback__)
    lines = [line for frame, line in frames if frame.f_code.co_filename in _TEMPLATE_FILES]
    return lines[-1] if lines else 0


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
