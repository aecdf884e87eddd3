"""The limits of grammars in GBNF, checked before an engine reads one.

llama.cpp's parser calls itself for every parenthesis, and its matcher keeps a list of all ways in which a text can
continue. A grammar of 200 bytes can describe more of them than fit into memory.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from modules.core.errors import Words

MAX_BYTES = 64_000
MAX_DEPTH = 200
"""Parentheses within each other."""
MAX_RULES = 5_000
"""Rules, with those that parentheses and repetitions stand for: `x{2,9}` is nine of them."""
MAX_CONTINUATIONS = 10_000
"""Ways in which a text can continue at one point of the grammar."""

_TOO_LONG: Words = {
    "en": f"a grammar of at most {MAX_BYTES} bytes",
    "zh": f"不超过 {MAX_BYTES} 字节的语法",
}
_TOO_DEEP: Words = {
    "en": f"a grammar with at most {MAX_DEPTH} parentheses within each other",
    "zh": f"括号嵌套不超过 {MAX_DEPTH} 层的语法",
}
_TOO_MANY_RULES: Words = {
    "en": f"a grammar with at most {MAX_RULES} rules, counting groups and repetitions",
    "zh": f"不超过 {MAX_RULES} 条规则的语法（含分组和重复）",
}
_TOO_AMBIGUOUS: Words = {
    "en": f"a grammar with at most {MAX_CONTINUATIONS} ways to continue a text; rule {{rule}} has more",
    "zh": f"续写方式不超过 {MAX_CONTINUATIONS} 种的语法；规则 {{rule}} 超出此数",
}

_BACKWARDS: Words = {
    "en": "repetitions whose second number is not the smaller one, such as {2,5}",
    "zh": "重复次数的上限不小于下限的语法，如 {2,5}",
}
"""llama.cpp makes four billion rules of `x{2,1}`."""

_TOKENS = re.compile(
    r"""(?P<rule>[\w-]+)[ \t]*::=
    | (?P<name>[\w-]+)
    | (?P<terminal>"(?:\\.|[^"\\])*" | \[(?:\\.|[^]\\])*\] | \. | !?<[^>\n]*>)
    | (?P<repetition>[*+?] | \{\s*\d*\s*(?:,\s*\d*\s*)?\})
    | (?P<bracket>[()|])
    | \#[^\n]*""",
    re.VERBOSE | re.DOTALL,
)


def excess(grammar: str) -> Words | None:
    """Return what is expected of a grammar beyond the limits; None for all others, including invalid ones."""
    if len(grammar.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        return _TOO_LONG
    return _structural_excess(grammar)


@lru_cache(maxsize=8)  # a client sends the same grammar with every request
def _structural_excess(grammar: str) -> Words | None:
    parsed = _Grammar()
    try:
        parsed.read(grammar)
    except _Refused as refused:
        return refused.words
    if parsed.size > MAX_RULES:
        return _TOO_MANY_RULES
    rule = parsed.ambiguous_rule()
    return {language: text.format(rule=rule) for language, text in _TOO_AMBIGUOUS.items()} if rule else None


class _Refused(Exception):
    def __init__(self, words: Words) -> None:
        self.words = words


@dataclass
class _Item:
    """A part of an alternative: the rule `target` or a terminal (None), `least` to `most` times (None: any)."""

    target: str | None
    least: int = 1
    most: int | None = 1


@dataclass(frozen=True)
class _Ways:
    """How many ways there are to begin a text of some rule, and how many to match the empty text; both saturate."""

    starts: int
    empty: int

    def then(self, rest: _Ways) -> _Ways:
        """Return the ways of this, followed by `rest`."""
        return _saturated(self.starts + self.empty * rest.starts, self.empty * rest.empty)


def _saturated(starts: int, empty: int) -> _Ways:
    return _Ways(min(starts, MAX_CONTINUATIONS + 1), min(empty, MAX_CONTINUATIONS + 1))


_NOTHING, _TERMINAL = _Ways(0, 1), _Ways(1, 0)


@dataclass
class _Grammar:
    """The rules of a grammar: alternatives of items. A group is a rule named after the one that contains it."""

    rules: dict[str, list[list[_Item]]] = field(default_factory=lambda: defaultdict(lambda: [[]]))
    repetitions: int = 0
    _ways: dict[str, _Ways | None] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.rules) + self.repetitions

    def read(self, grammar: str) -> None:
        """Add the rules of `grammar`; what is invalid is left out. Raises _Refused."""
        name, groups = "", list[str]()
        for token in _TOKENS.finditer(grammar):
            kind, text = token.lastgroup, token[0]
            if kind == "rule":
                name, groups = token["rule"], []
                self.rules[name]
            elif text == '""':
                continue  # matches the empty text, as no item does
            elif kind in ("name", "terminal"):
                self._last(name, groups).append(_Item(text if kind == "name" else None))
            elif kind == "repetition":
                self._repeat(name, self._last(name, groups), text)
            elif text == "(":
                group = f"{name} ({len(self.rules)})"
                self._last(name, groups).append(_Item(group))
                groups.append(group)
                self.rules[group]
            elif text == ")" and groups:
                groups.pop()
            elif text == "|":
                self.rules[groups[-1] if groups else name].append([])
            if len(groups) > MAX_DEPTH:
                raise _Refused(_TOO_DEEP)

    def _last(self, name: str, groups: list[str]) -> list[_Item]:
        return self.rules[groups[-1] if groups else name][-1]

    def _repeat(self, name: str, items: list[_Item], operator: str) -> None:
        if not items:
            return
        least, most = _bounds(operator)
        if (items[-1].least, items[-1].most) != (1, 1):  # `x*?` repeats the repetition
            group = f"{name} ({len(self.rules)})"
            self.rules[group] = [[items.pop()]]
            items.append(_Item(group))
        items[-1].least, items[-1].most = least, most
        self.repetitions += max(least, most or 0, 1)

    def ambiguous_rule(self) -> str | None:
        """Return a rule in which a text can continue in more ways than allowed."""
        for name, alternatives in self.rules.items():
            for items in alternatives:
                ways = _NOTHING
                for item in reversed(items):  # a text can continue before every item
                    ways = self._of_item(item, self._solve(item.target)).then(ways)
                    if ways.starts > MAX_CONTINUATIONS:
                        return name.partition(" ")[0]
            if self._solve(name).starts > MAX_CONTINUATIONS:
                return name.partition(" ")[0]
        return None

    def _solve(self, name: str | None) -> _Ways:
        """Return the ways of a rule. A loop takes the place of recursion, which could be as deep as there are rules."""
        waiting = [self._visit(name)]
        answer: _Ways | None = None
        while waiting:
            try:
                waiting.append(self._visit(waiting[-1].send(answer)))
                answer = None
            except StopIteration as end:
                waiting.pop()
                answer = end.value
        assert answer is not None
        return answer

    def _visit(self, name: str | None) -> Generator[str | None, Any, _Ways]:
        """Yield the rules whose ways are needed, and return those of `name`."""
        if name is None or name not in self.rules:
            return _TERMINAL
        if name in self._ways:
            return self._ways[name] or _NOTHING  # None: a rule that begins with itself, which engines reject
        self._ways[name] = None
        starts = empty = 0
        for items in self.rules[name]:
            parts = []
            for item in items:
                parts.append(self._of_item(item, (yield item.target)))
                if not parts[-1].empty:
                    break
            ways = _sequence(parts)
            starts, empty = starts + ways.starts, empty + ways.empty
        self._ways[name] = result = _saturated(starts, empty)
        return result

    @staticmethod
    def _of_item(item: _Item, once: _Ways) -> _Ways:
        if item.most is None:
            optional = _Ways(once.starts, 1)
        else:
            optional = _NOTHING
            for _ in range(item.most - item.least if once.empty else min(item.most - item.least, 1)):
                optional = _saturated(once.starts + once.empty * optional.starts, 1 + once.empty * optional.empty)
        required = [once] * (item.least if once.empty else min(item.least, 1))
        return _sequence([*required, optional])


def _sequence(parts: Iterable[_Ways]) -> _Ways:
    ways = _NOTHING
    for part in reversed(list(parts)):
        ways = part.then(ways)
    return ways


def _bounds(operator: str) -> tuple[int, int | None]:
    """Return how often `*`, `+`, `?`, `{2}`, `{2,}`, `{,3}` or `{2,3}` repeats; None is any number."""
    if operator in "*+?":
        return (1 if operator == "+" else 0), (1 if operator == "?" else None)
    low, comma, high = operator.strip("{}").replace(" ", "").partition(",")
    least = _capped(low)
    if not comma:
        return least, least
    most = _capped(high) if high else None
    if most is not None and most < least:
        raise _Refused(_BACKWARDS)
    return least, most


def _capped(digits: str) -> int:
    """Return a number, at most one that exceeds the limit on rules."""
    return min(int(digits.lstrip("0")[:6] or 0), MAX_RULES + 1)
