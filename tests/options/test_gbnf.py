"""Limits of grammars: those that would crash or stall llama.cpp exceed them, those that people use do not."""

from __future__ import annotations

import pytest

from modules.core.errors import OptionError
from modules.options import gbnf
from modules.options.generation import PARAMETERS

JSON = r"""
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::= "{" ws ( string ":" ws value ("," ws string ":" ws value)* )? "}" ws  # an object
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= ("-"? ([0-9] | [1-9] [0-9]{0,15})) ("." [0-9]+)? ([eE] [-+]? [0-9] [1-9]{0,15})? ws
ws     ::= | " " | "\n" [ \t]{0,20}
"""
DOUBLING = "\n".join(
    ["root ::= a0", *(f"a{i} ::= a{i + 1} a{i + 1} | a{i + 1}" for i in range(10)), 'a10 ::= "x" | ""']
)


def expected(grammar: str) -> str:
    """Return the English words for what `grammar` exceeds; "" if it is within the limits."""
    words = gbnf.excess(grammar)
    return words["en"] if words else ""


@pytest.mark.parametrize(
    "grammar",
    [
        "",
        JSON,
        'root ::= "yes" | "no"',
        'root ::= [(]+ "(((" ")"',
        'root ::= item{2000}\nitem ::= "a" | "b"',
        "root ::= " + " | ".join(f'"w{i}"' for i in range(4000)),
        "root ::= " + "(" * 200 + '"a"' + ")" * 200,
        "root ::= " + " ".join(f'("k{i}" ws)?' for i in range(400)) + '\nws ::= " "?',
        'list ::= item list | ""\nroot ::= list\nitem ::= "a"',
        "root ::= root | ::= ) ( | * {",
        'root ::= (("a"?)*)*',
        'root ::= "a"{2}{3}?*',
    ],
)
def test_ordinary_and_invalid_grammars_are_left_to_the_engine(grammar: str) -> None:
    assert not expected(grammar)


@pytest.mark.parametrize(
    ("grammar", "limit"),
    [
        ('root ::= "' + "a" * 64_000 + '"', "64000 bytes"),
        ("root ::= " + "(" * 30_000 + '"a"' + ")" * 30_000, "200 parentheses"),
        ("root ::= " + "(" * 201, "200 parentheses"),
        ("\n".join(f'r{i} ::= "a"' for i in range(4000)) + '\nroot ::= "a"{1001}', "5000 rules"),
        ('root ::= "a"{99999999999999999999}', "5000 rules"),
        ('root ::= "a"{4000}?{2000}', "5000 rules"),
        ("root ::= many | many\nmany ::= " + " | ".join(['"a"'] * 5001), "rule root has more"),
        (DOUBLING, "10000 ways"),
        ("\n".join(f'a{i} ::= a{i + 1} "y" | a{i + 1} "z"' for i in range(20)) + '\na20 ::= "x"', "10000 ways"),
        ('root ::= "b" tail\ntail ::= (("a"?){0,200}){0,200}', "rule root has more"),
    ],
)
def test_grammars_that_take_too_much_are_refused_with_the_limit(grammar: str, limit: str) -> None:
    assert limit in expected(grammar)


def test_a_repetition_that_runs_backwards_is_refused() -> None:
    assert "second number" in expected('root ::= "x"{3,2}')
    assert expected('root ::= "x"{00000003,3}') == ""


def test_ways_to_continue_are_counted_behind_every_item_too() -> None:
    assert "rule root" in expected('root ::= "x" many many\nmany ::= ' + " | ".join(['""'] * 101 + ['"a"'] * 101))


def test_a_chain_of_rules_may_be_as_long_as_the_limit_on_rules() -> None:
    assert not expected("\n".join(f"r{i} ::= r{i + 1}" for i in range(3500)) + '\nr3500 ::= "a"')


def test_the_option_refuses_the_grammar_with_its_beginning() -> None:
    with pytest.raises(OptionError, match="200 parentheses") as refusal:
        PARAMETERS["grammar_string"].parse("root ::= " + "(" * 1000)
    assert len(str(refusal.value.value)) < 70
