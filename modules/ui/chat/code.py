"""Blocks of code: language, copy button, and colors by classes (tx-k, tx-s, …) of `static/transcript_markdown.css`."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from html import escape

from pygments.lexer import Lexer
from pygments.lexers import get_all_lexers, get_lexer_by_name
from pygments.token import Comment, Generic, Keyword, Name, Number, Operator, String, _TokenType

from modules.core.errors import Words
from modules.core.text_width import columns

MAX_HIGHLIGHTED, MAX_LINE = 40_000, 2000
"""Longer blocks, and blocks with longer lines, have no colors."""
LONG_LINE = 80
"""Columns of a line that a conversation has room for."""
MAX_SECONDS = 0.3
"""Processor time after which a block is left without colors: Pygments takes very long for some texts."""
EXACT_AFTER = 400
"""Characters of a block that is being written, until its colors are computed again from its beginning."""

HIGHLIGHTED = frozenset({
    "abap", "awk", "bash", "batch", "c", "clojure", "cmake", "cobol", "common-lisp", "console", "coq", "cpp", "cr",
    "csharp", "css", "cuda", "dart", "delphi", "diff", "django", "docker", "elixir", "erlang", "fortran", "fsharp",
    "gas", "gdscript", "glsl", "go", "graphql", "groovy", "handlebars", "haskell", "html", "html+php", "http",
    "ini", "java", "javascript", "json", "json5", "jsx", "julia", "kotlin", "lean4", "less", "lua", "make",
    "markdown", "matlab", "mysql", "nasm", "nginx", "nimrod", "objective-c", "ocaml", "perl", "php", "postgresql",
    "powershell", "prolog", "properties", "protobuf", "pycon", "pytb", "python", "ruby", "rust", "sass", "scala",
    "scheme", "scss", "solidity", "splus", "sql", "swift", "systemverilog", "terraform", "tex", "toml", "tsx",
    "typescript", "vb.net", "verilog", "vhdl", "vim", "vue", "xml", "yaml", "zig",
})  # fmt: skip
"""First aliases of the languages that are colored: those that answers contain, and that hostile texts do not slow."""

NAMES = {"batch": "Batch", "nimrod": "Nim", "splus": "R", "tex": "LaTeX"}
"""Names of languages that Pygments has others for, by first alias."""

COPY: Words = {"en": "Copy code", "zh": "复制代码"}
WRAP: Words = {"en": "Wrap lines", "zh": "自动换行"}
DO_NOT_WRAP: Words = {"en": "Do not wrap", "zh": "不换行"}
CODE: Words = {"en": "code", "zh": "代码"}

_BLANK = re.compile(r"\s{200}")

CLASSES = {
    Comment: "c",
    Comment.Preproc: "p",
    Generic.Deleted: "del",
    Generic.Heading: "h",
    Generic.Inserted: "ins",
    Generic.Subheading: "h",
    Keyword: "k",
    Keyword.Constant: "n",
    Keyword.Type: "t",
    Name.Attribute: "a",
    Name.Builtin: "b",
    Name.Class: "t",
    Name.Constant: "n",
    Name.Decorator: "p",
    Name.Exception: "t",
    Name.Function: "f",
    Name.Namespace: "t",
    Name.Tag: "k",
    Name.Variable: "v",
    Number: "n",
    Operator.Word: "k",
    String: "s",
    String.Escape: "e",
    String.Interpol: "e",
    String.Regex: "e",
}
"""Kinds of tokens that have a color, and their class after "tx-". Others have the color of the text, and no element."""


def code_block(content: str, info: str, language: str, has_long_lines: bool = False) -> str:
    """Return a block around `content`, which is HTML. `info` is what the fence says about its language.

    Only with `has_long_lines`, it has a button that wraps the lines of all blocks.
    """
    name = language_name(info)
    label = escape(name)
    described = escape(f"{name} {CODE[language]}".strip())
    labels = f"<span>{WRAP[language]}</span><span>{DO_NOT_WRAP[language]}</span>"
    wrap = f'<button type="button" class="tx-wrap-code">{labels}</button>' if has_long_lines else ""
    return (
        f'<div class="tx-code"><div class="tx-code-head"><span class="tx-code-language">{label}</span>'
        f'{wrap}<button type="button" class="tx-copy-code">{COPY[language]}</button></div>'
        f'<pre tabindex="0" role="group" aria-label="{described}"><code>{content}</code></pre></div>'
    )


def has_long_lines(source: str) -> bool:
    """Return whether a block is probably wider than a conversation."""
    return any(len(line) > LONG_LINE // 2 and columns(line) > LONG_LINE for line in source.split("\n"))


def language_name(info: str) -> str:
    """Return the name of a fence's language as people write it, or its first word if it is not known."""
    word = _first_word(info)
    name, alias = languages().get(word.lower(), ("", ""))
    return NAMES.get(alias, name) if alias in HIGHLIGHTED else word[:30]


def highlighted(source: str, info: str) -> str:
    """Return source code as HTML with colors, or without any if its language is not known, or too slow for Pygments."""
    lexer = _lexer(_first_word(info).lower())
    if lexer is None or not source or not _is_harmless(source):
        return escape(source)
    tokens, latest = [], time.thread_time() + MAX_SECONDS
    for kind, text in lexer.get_tokens(source):
        tokens.append((kind, text))
        if len(tokens) % 32 == 0 and time.thread_time() > latest:
            return escape(source)
    if "".join(text for _, text in tokens) != source:
        return escape(source)
    return "".join(_spans(tokens))


def _is_harmless(source: str) -> bool:
    """Return whether no line or blank is so long that a single match in it could take seconds."""
    return (
        len(source) <= MAX_HIGHLIGHTED and max(map(len, source.split("\n"))) <= MAX_LINE and not _BLANK.search(source)
    )


class GrowingCode:
    """Colors a block while it is being written, at a cost that grows with its length only linearly.

    New lines are colored by themselves. From time to time, ever more rarely, the whole is: that corrects what depends
    on earlier lines, such as long strings.
    """

    def __init__(self) -> None:
        self._source = ""  # what is colored, whole lines
        self._exact = 0  # length of what was colored from the beginning
        self._parts: list[str] = []

    def update(self, source: str, info: str) -> str:
        """Return the HTML of `source`."""
        if not source.startswith(self._source):
            self._source, self._exact, self._parts = "", 0, []
        done, complete = len(self._source), source.rfind("\n") + 1
        if complete - self._exact >= max(EXACT_AFTER, self._exact // 4):
            self._parts, self._exact = [highlighted(source[:complete], info)], complete
        elif complete > done:
            self._parts.append(highlighted(source[done:complete], info))
        self._source = source[: max(done, complete)]
        return "".join([*self._parts, escape(source[len(self._source) :])])


def _first_word(info: str) -> str:
    words = info.replace("{", " ").replace("}", " ").replace(",", " ").split(maxsplit=1)
    return words[0].lstrip(".")[:50] if words else ""


@lru_cache(maxsize=1)
def languages() -> dict[str, tuple[str, str]]:
    """Name and alias of each language, by alias. Looking up an unknown alias in Pygments would search its plugins."""
    found = {}
    for name, aliases, _, _ in get_all_lexers(plugins=False):
        for alias in aliases:
            found[alias.lower()] = (name, aliases[0])
    return found


@lru_cache(maxsize=128)
def _lexer(word: str) -> Lexer | None:
    _, alias = languages().get(word, ("", ""))
    return get_lexer_by_name(alias, stripnl=False, ensurenl=False) if alias in HIGHLIGHTED else None


@lru_cache(maxsize=512)
def _class(kind: _TokenType) -> str:
    at: _TokenType | None = kind
    while at is not None:
        if at in CLASSES:
            return f"tx-{CLASSES[at]}"
        at = at.parent
    return ""


def _spans(tokens: Iterable[tuple[_TokenType, str]]) -> Iterator[str]:
    """Yield the colored source, neighbors of one color in one element."""
    name, pending = "", ""
    for kind, value in tokens:
        found = _class(kind) or (name if value.isspace() else "")
        if found != name:
            yield _span(name, pending)
            name, pending = found, ""
        pending += value
    yield _span(name, pending)


def _span(name: str, text: str) -> str:
    return f'<span class="{name}">{escape(text)}</span>' if name and text else escape(text)
