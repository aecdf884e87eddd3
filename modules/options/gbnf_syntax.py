"""Check the syntax of grammars in GBNF as llama.cpp's parser does, to name the line of the first error.

`gbnf.excess` must have found no excess before: this parser calls itself for every parenthesis.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from modules.core.errors import Words

ROOT = "root"

_NAME = re.compile(r"[A-Za-z0-9-]+")
_ESCAPE = re.compile(r'\\(?:x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|[tnr\\"\[\]])')
_REPETITION = re.compile(r"\{\s*([0-9]+)\s*(,\s*([0-9]*)\s*)?\}")
_TOKEN = re.compile(r"!?<\[[0-9]+\]>")
_BLANK = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_SHOWN = 24
"""Characters of the grammar that an error quotes."""

_TEXTS: Mapping[str, Words] = {
    "name": {"en": "expected the name of a rule, found {found}", "zh": "此处应为规则名称，却是{found}"},
    "arrow": {"en": "expected ::= after the rule's name, found {found}", "zh": "规则名称之后应为 ::=，却是{found}"},
    "rest": {"en": "{found} is not understood here", "zh": "无法理解{found}"},
    "quote": {"en": "the text has no closing quotation mark", "zh": "文本缺少右引号"},
    "class": {"en": "the character class has no closing ]", "zh": "字符类缺少右方括号 ]"},
    "escape": {"en": "unknown escape sequence {found}", "zh": "未知的转义序列{found}"},
    "paren": {"en": "a closing ) is missing before {found}", "zh": "{found}之前缺少右括号 )"},
    "nothing": {"en": "there is nothing before {found} that it could repeat", "zh": "{found}之前没有可重复的内容"},
    "braces": {
        "en": "{found} is not a repetition such as {{2}}, {{2,}} or {{2,5}}",
        "zh": "{found}不是形如 {{2}}、{{2,}} 或 {{2,5}} 的重复次数",
    },
    "token": {"en": "{found} is not a token such as <[5]>", "zh": "{found}不是形如 <[5]> 的词符"},
    "undefined": {"en": "the rule {found} is not defined", "zh": "规则{found}未定义"},
    "root": {"en": "there is no rule named root", "zh": "没有名为 root 的规则"},
    "recursion": {
        "en": "the rule {found} begins with itself, so that it would never end",
        "zh": "规则{found}以自身开头，无法终止",
    },
}


@dataclass(frozen=True)
class SyntaxFault:
    """The first error of a grammar, in the line of that number, counted from 1."""

    line: int
    text: Words


def syntax_fault(grammar: str) -> SyntaxFault | None:
    """Return the first error of a grammar; None if it is valid."""
    parser = _Parser(grammar)
    try:
        parser.read()
    except _Fault as fault:
        line = grammar.count("\n", 0, min(fault.at, len(grammar.rstrip()))) + 1
        found = _quoted(fault.found or grammar[fault.at :])
        return SyntaxFault(
            line, {language: text.format(found=found[language]) for language, text in _TEXTS[fault.key].items()}
        )
    return None


class _Fault(Exception):
    def __init__(self, key: str, at: int, found: str = "") -> None:
        self.key, self.at, self.found = key, at, found


class _Parser:
    """Reads a grammar from position `at` on. `begins` has the rules with which each rule may begin, by name."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0
        self._rule = ""
        self._defined: dict[str, int] = {}
        self._used: dict[str, int] = {}
        self._rules: dict[str, _Node] = {}

    def read(self) -> None:
        self._skip(_BLANK_LINES)
        while self._at < len(self._text):
            self._read_rule()
        for name, at in self._used.items():
            if name not in self._defined:
                raise _Fault("undefined", at, name)
        if ROOT not in self._defined:
            raise _Fault("root", 0)
        self._refuse_left_recursion()

    def _read_rule(self) -> None:
        start = self._at
        name = self._take(_NAME)
        if not name:
            raise _Fault("name", self._at)
        self._skip(_BLANK)
        if not self._text.startswith("::=", self._at):
            raise _Fault("arrow", self._at)
        self._at += 3
        self._skip(_BLANK_LINES)
        self._defined[name] = start
        self._rules[name] = self._read_alternatives(nested=False)
        if self._at < len(self._text) and self._text[self._at] not in "\r\n":
            raise _Fault("rest", self._at)
        self._skip(_BLANK_LINES)

    def _read_alternatives(self, nested: bool) -> _Node:
        node = _Node([self._read_sequence(nested)])
        while self._text.startswith("|", self._at):
            self._at += 1
            self._skip(_BLANK_LINES)
            node.alternatives.append(self._read_sequence(nested))
        return node

    def _read_sequence(self, nested: bool) -> list[_Item]:
        items: list[_Item] = []
        while (item := self._read_item(bool(items))) is not None:
            if item.repeats:
                items[-1].optional = items[-1].optional or item.optional
            else:
                items.append(item)
            self._skip(_BLANK_LINES if nested else _BLANK)
        return items

    def _read_item(self, repeatable: bool) -> _Item | None:
        """Read one item, or one repetition of the item before; None if the sequence ends here."""
        start = self._at
        character = self._text[start : start + 1]
        if character and character in '"[':
            end, unclosed = ('"', "quote") if character == '"' else ("]", "class")
            return _Item(optional=self._read_characters(end, unclosed))
        if name := self._take(_NAME):
            self._used.setdefault(name, start)
            return _Item(rule=name)
        if character == "(":
            return self._read_group()
        if character == ".":
            self._at += 1
            return _Item()
        if character and character in "<!":
            if not self._take(_TOKEN):  # which tokens have names, only a model knows
                raise _Fault("token", start)
            return _Item()
        if character and character in "*+?{":
            if not repeatable:
                raise _Fault("nothing", start)
            return self._read_repetition(character)
        return None

    def _read_group(self) -> _Item:
        self._at += 1
        self._skip(_BLANK_LINES)
        group = self._read_alternatives(nested=True)
        if not self._text.startswith(")", self._at):
            raise _Fault("paren", self._at)
        self._at += 1
        return _Item(group=group)

    def _read_repetition(self, operator: str) -> _Item:
        start = self._at
        if operator != "{":
            self._at += 1
            return _Item(optional=operator in "*?", repeats=True)
        match = _REPETITION.match(self._text, start)
        if match is None or (match[3] and _number(match[3]) < _number(match[1])):
            raise _Fault("braces", start)
        self._at = match.end()
        return _Item(optional=_number(match[1]) == 0, repeats=True)

    def _read_characters(self, end: str, unclosed: str) -> bool:
        """Read a text or a character class up to `end`, and return whether there is nothing in it."""
        start = self._at
        self._at += 1
        while not self._text.startswith(end, self._at):
            if self._at >= len(self._text):
                raise _Fault(unclosed, start)
            if self._text[self._at] == "\\":
                if not self._take(_ESCAPE):
                    raise _Fault("escape", self._at, self._text[self._at : self._at + 2])
            else:
                self._at += 1
        self._at += 1
        return self._at == start + 2

    def _take(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self._text, self._at)
        if match is None:
            return ""
        self._at = match.end()
        return match[0]

    def _skip(self, blank: re.Pattern[str]) -> None:
        self._take(blank)

    def _refuse_left_recursion(self) -> None:
        """Raise _Fault for a rule that may begin with itself."""
        optional: set[str] = set()  # rules that match the empty text
        while found := {name for name, node in self._rules.items() if name not in optional and node.is_empty(optional)}:
            optional |= found
        begins = {name: node.begins_with(optional) for name, node in self._rules.items()}
        for name in self._rules:
            waiting, seen = list(begins[name]), set[str]()
            while waiting:
                other = waiting.pop()
                if other == name:
                    raise _Fault("recursion", self._defined[name], name)
                if other not in seen:
                    seen.add(other)
                    waiting.extend(begins[other])


@dataclass
class _Item:
    """A rule, a group or (with neither) characters. With `repeats` it is how often the item before is repeated."""

    rule: str = ""
    group: _Node | None = None
    optional: bool = False
    repeats: bool = False

    def is_empty(self, optional: set[str]) -> bool:
        return self.optional or self.rule in optional or (self.group is not None and self.group.is_empty(optional))


@dataclass
class _Node:
    alternatives: list[list[_Item]]

    def is_empty(self, optional: set[str]) -> bool:
        """Whether this matches the empty text, if the rules `optional` do."""
        return any(all(item.is_empty(optional) for item in items) for items in self.alternatives)

    def begins_with(self, optional: set[str]) -> set[str]:
        """Return the rules that may come first."""
        rules: set[str] = set()
        for items in self.alternatives:
            for item in items:
                rules |= {item.rule} if item.rule else item.group.begins_with(optional) if item.group else set()
                if not item.is_empty(optional):
                    break
        return rules


def _number(digits: str) -> int:
    return int(digits.lstrip("0") or 0)


def _quoted(text: str) -> Words:
    line = text.split("\n", 1)[0].strip()
    if not line:
        return {"en": "the end of the line", "zh": "行尾"}
    shown = line if len(line) <= _SHOWN else line[:_SHOWN] + "…"
    return {"en": f"“{shown}”", "zh": f"“{shown}”"}
