"""Formulas in LaTeX as MathML.

latex2mathml builds the tree; it is serialized here, because the library's own output is not safe: it passes `\\href`
and `\\style` on, and turns `&lt;` of a text into markup. Browsers implement MathML Core only, so columns, alphabets and
operators are expressed in its terms.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from html import escape, unescape
from xml.etree.ElementTree import Element

from latex2mathml import exceptions
from latex2mathml.converter import Converter

MAX_LENGTH = 5000
"""Longer formulas are shown as their source."""
MAX_DEPTH = 60
REMEMBERED_LENGTH = 300
"""A formula is drawn again at each update of the text around it; longer ones are not remembered, to bound memory."""
SCROLLABLE_LENGTH = 60
"""Formulas with longer sources may be wider than the page: they can be focused, to be scrolled by keyboard."""

_FAILURES: tuple[type[Exception], ...] = (
    LookupError, ValueError, TypeError, AttributeError, AssertionError, ArithmeticError, RuntimeError, StopIteration,
    *(fault for fault in vars(exceptions).values() if isinstance(fault, type) and issubclass(fault, Exception)),
)  # fmt: skip
"""The library's own errors have no base class, and damaged formulas make it fail in other ways as well."""

_LINE = "&#x02015;"
_TOKENS = frozenset({"mi", "mn", "mo", "mtext"})
_ARITY = {"mfrac": 2, "mroot": 2, "msub": 2, "msup": 2, "msubsup": 3, "mover": 2, "munder": 2, "munderover": 3}
_LAYOUT = frozenset({"mrow", "msqrt", "mspace", "mstyle", "mpadded", "mphantom", "mtable", "mtr", "mtd", "menclose"})
_LENGTH = r"[+-]?\d*\.?\d+(?:em|ex|px|pt|cm|mm|%)?"
_TRUTH = "true|false"
_ATTRIBUTES = {
    name: re.compile(pattern)
    for name, pattern in {
        **dict.fromkeys(("accent", "displaystyle", "fence", "largeop", "movablelimits", "stretchy"), _TRUTH),
        **dict.fromkeys(("depth", "height", "linethickness", "lspace", "maxsize", "minsize"), _LENGTH),
        **dict.fromkeys(("rspace", "voffset", "width"), _LENGTH),
        "form": "prefix|infix|postfix",
        "notation": "[a-z ]+",
        "scriptlevel": r"[+-]?\d",
    }.items()
}
_ALPHABETS = {
    # name: code points of A, a and 0, or 0 if the alphabet has none
    "bold": (0x1D400, 0x1D41A, 0x1D7CE),
    "italic": (0x1D434, 0x1D44E, 0),
    "bold-italic": (0x1D468, 0x1D482, 0),
    "script": (0x1D49C, 0x1D4B6, 0),
    "fraktur": (0x1D504, 0x1D51E, 0),
    "double-struck": (0x1D538, 0x1D552, 0x1D7D8),
    "sans-serif": (0x1D5A0, 0x1D5BA, 0x1D7E2),
    "sans-serif-italic": (0x1D608, 0x1D622, 0),
    "monospace": (0x1D670, 0x1D68A, 0x1D7F6),
}
_ASSIGNED_EARLIER = dict(
    zip(
        map(chr, (0x1D455, 0x1D49D, 0x1D4A0, 0x1D4A1, 0x1D4A3, 0x1D4A4, 0x1D4A7, 0x1D4A8, 0x1D4AD, 0x1D4BA, 0x1D4BC,
                  0x1D4C4, 0x1D506, 0x1D50B, 0x1D50C, 0x1D515, 0x1D51D, 0x1D53A, 0x1D53F, 0x1D545, 0x1D547, 0x1D548,
                  0x1D549, 0x1D551)),
        "ℎℬℰℱℋℐℒℳℛℯℊℴℭℌℑℜℨℂℍℕℙℚℝℤ",
        strict=True,
    )
)  # fmt: skip
"""Letters that Unicode had before it added the alphabets."""

_DEFINITIONS = re.compile(r"\\(?:new|renew|provide)command|\\def(?![a-zA-Z])|\\verb(?![a-zA-Z])")
"""Macros could grow a formula without limit."""
_ALIASES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\operatorname\*?\s*\{\s*arg\s*(?:\\[,;:! ]|~)?\s*(max|min)\s*\}", r"\\arg\1 "),
        (r"\\arg\s*\\(max|min)(?![a-zA-Z])", r"\\arg\1"),
        (r"\\arg(?![a-zA-Z])", r"\\operatorname{arg}"),
        (r"\\(?:label|vspace\*?)\s*\{[^{}]*\}", ""),
        (r"\\(?:nonumber|notag|hfill|middle|displaylimits|allowbreak|nobreak)(?![a-zA-Z])", ""),
        (r"\\(begin|end)\s*\{(?:aligned|align\*?)\}(?:\[[tbc]\])?", r"\\\1{split}"),
        (r"\\begin\s*\{(?:alignedat|alignat\*?)\}\s*\{\d+\}", r"\\begin{split}"),
        (r"\\end\s*\{(?:alignedat|alignat\*?)\}", r"\\end{split}"),
        (r"\\begin\s*\{eqnarray\*?\}", r"\\begin{array}{rcl}"),
        (r"\\end\s*\{eqnarray\*?\}", r"\\end{array}"),
        (r"\\(begin|end)\s*\{dcases\}", r"\\\1{cases}"),
        (r"\\(begin|end)\s*\{gather(?:ed|\*)?\}", r"\\\1{matrix}"),
    )
]


class Unconvertible(Exception):
    """A formula that cannot be drawn; its source is shown instead."""


def formula_html(latex: str, *, display: bool) -> str:
    """Return a formula as HTML: MathML, or its source if it cannot be drawn."""
    return (_remembered if len(latex) <= REMEMBERED_LENGTH else _formula_html)(latex, display)


def _formula_html(latex: str, display: bool) -> str:
    try:
        drawn = _mathml(latex.strip(), display)
    except Unconvertible:
        return source_html(latex)
    if not display:
        is_long = len(latex) > SCROLLABLE_LENGTH
        return f'<span class="tx-math-long" tabindex="0">{drawn}</span>' if is_long else drawn
    focus = ' tabindex="0"' if len(latex) > SCROLLABLE_LENGTH else ""
    return f'<span class="tx-math-display"{focus}>{drawn}</span>'


def source_html(latex: str) -> str:
    return f'<code class="tx-math-source">{escape(latex.strip())}</code>'


_remembered = lru_cache(maxsize=1000)(_formula_html)


def _mathml(latex: str, display: bool) -> str:
    if len(latex) > MAX_LENGTH or not latex or _DEFINITIONS.search(latex):
        raise Unconvertible
    prepared = latex
    for pattern, replacement in _ALIASES:
        prepared = pattern.sub(replacement, prepared)
    mode = "block" if display else "inline"
    root = _tree(prepared, mode)
    if _has_loose_lines(root):
        root = _tree(rf"\begin{{split}}{prepared}\end{{split}}", mode)
        if _has_loose_lines(root):
            raise Unconvertible
    content = "".join(_serialize(child, 0) for child in root)
    return f'<math display="{mode}" alttext="{escape(latex)}">{content}</math>'


def _tree(latex: str, mode: str) -> Element:
    try:
        return Converter(display=mode).convert_to_element(latex)
    except _FAILURES as fault:
        raise Unconvertible from fault


def _has_loose_lines(root: Element) -> bool:
    """Return whether lines or columns are separated outside of every environment."""
    return any(
        (element.tag == "mspace" and "linebreak" in element.attrib) or (element.tag == "mi" and element.text == "&")
        for element in root.iter()
    )


def _serialize(element: Element, depth: int) -> str:
    if depth > MAX_DEPTH:
        raise Unconvertible
    tag = element.tag
    children = [_serialize(child, depth + 1) for child in element]
    if tag in _TOKENS and not children:
        return _token(element)
    if tag in _TOKENS:
        tag = "mrow"
    if tag in ("mover", "munder") and len(children) == 2 and element[1].text == _LINE:
        # A border is as long as what it covers; the character is only if a font for mathematics is installed.
        return f'<mrow class="tx-{tag.removeprefix("m")}line">{children[0]}</mrow>'
    if tag in _ARITY:
        children = _grouped(children, _ARITY[tag])
    elif tag not in _LAYOUT:
        raise Unconvertible
    return f"<{tag}{_attributes(element)}>{''.join(children)}</{tag}>"


def _grouped(children: list[str], arity: int) -> list[str]:
    """Join the first children into one: the library gives a script after a bracketed matrix more than one base."""
    extra = len(children) - arity
    if extra < 0:
        raise Unconvertible
    if extra == 0:
        return children
    return [f"<mrow>{''.join(children[: extra + 1])}</mrow>", *children[extra + 1 :]]


def _token(element: Element) -> str:
    raw = element.text or ""
    if re.match(r"\\[a-zA-Z]", raw):  # a command that the library does not know
        raise Unconvertible
    text = unescape(raw)
    tag, attributes = element.tag, _attributes(element)
    variant = element.get("mathvariant", "")
    is_symbol = len(text) == 1 and raw.startswith("&#x")
    if text == "~" and is_symbol:
        text = "∼"
    if tag == "mo" and text in ("∞", "∅"):
        tag, attributes = "mi", ""
    elif tag == "mi" and is_symbol and (unicodedata.category(text) in ("Sm", "Ps", "Pe") or text == ":"):
        tag, attributes = "mo", ' stretchy="false"'
    if tag == "mi" and len(text) == 1 and (variant == "normal" or (is_symbol and text.isascii() and text.isalpha())):
        attributes += ' mathvariant="normal"'
    return f"<{tag}{attributes}>{escape(_in_alphabet(text, variant))}</{tag}>"


def _in_alphabet(text: str, name: str) -> str:
    """Return the characters of a mathematical alphabet: browsers ignore the attribute mathvariant."""
    if name not in _ALPHABETS:
        return text
    upper, lower, digit = _ALPHABETS[name]

    def character(plain: str) -> str:
        if "A" <= plain <= "Z":
            code = upper + ord(plain) - ord("A")
        elif "a" <= plain <= "z":
            code = lower + ord(plain) - ord("a")
        elif digit and "0" <= plain <= "9":
            code = digit + ord(plain) - ord("0")
        else:
            return plain
        return _ASSIGNED_EARLIER.get(chr(code), chr(code))

    return "".join(map(character, text))


def _attributes(element: Element) -> str:
    found = []
    for name, value in element.attrib.items():
        if name == "columnalign" and value in ("left", "center", "right"):
            found.append(f' class="tx-{value}"')
        elif value == "negativethinmathspace":
            found.append(f' {name}="-0.167em"')
        elif name in _ATTRIBUTES and _ATTRIBUTES[name].fullmatch(value):
            found.append(f' {name}="{value}"')
    return "".join(found)
