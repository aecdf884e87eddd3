"""Errors in grammars are found as by llama.cpp's parser, with their lines."""

from __future__ import annotations

import pytest

from modules.options.gbnf_syntax import syntax_fault

VALID = [
    *('root ::= "a"', 'root::="a"', '  root ::= "a" # comment\n# more\n\nb ::= "x"', 'root ::= "a"\r\nb ::= "c"\r\n'),
    *('root ::= "a" |\n "b"', 'root ::= ("a"\n| "b")', 'root ::=\n "a"', "root ::=", 'root ::= "a" | | "b"'),
    *(r'root ::= "\x41\u00e4\U0001F600\n\"\\" [\]a-z^]', "root ::= [^a] .", "root ::= <[5]> !<[6]>"),
    *('root ::= "a"?? "b"{2} "c"{2,} "d"{ 2 , 3 }', 'root ::= 1a\n1a ::= "x"', 'root ::= "x" root | ""'),
    'root ::= a root\na ::= "b"+ | "" "c"',
]
INVALID = {
    'root ::= "x"\n a_b ::= "y"': (2, 'expected ::= after the rule\'s name, found “_b ::= "y"”'),
    'root ::= "a"\n| "b"': (2, "expected the name of a rule"),
    'é ::= "a"': (1, "expected the name of a rule"),
    'root := "a"': (1, 'expected ::= after the rule\'s name, found “:= "a"”'),
    "root ::= a\n\na ::= b": (3, "the rule “b” is not defined"),
    'other ::= "b"': (1, "there is no rule named root"),
    'root ::= "a\n': (1, "no closing quotation mark"),
    "root ::= [a-\n": (1, "no closing ]"),
    'root ::= (\n"a"\n': (2, "a closing ) is missing before the end of the line"),
    'root ::= "a")': (1, "“)” is not understood"),
    "root ::= *": (1, "nothing before “*”"),
    'root ::= "a"{,3}': (1, "“{,3}” is not a repetition such as {2}, {2,} or {2,5}"),
    'root ::= "a"{3,2}': (1, "is not a repetition"),
    r'root ::= "\q"': (1, r"unknown escape sequence “\q”"),
    r'root ::= "\x4"': (1, "unknown escape sequence"),
    "root ::= <think>": (1, "“<think>” is not a token"),
    'x ::= "y"\nroot ::= x? root "z"': (2, "the rule “root” begins with itself"),
    'root ::= a b\na ::= "" | "q"{0,3}\nb ::= [0-9]* root': (1, "begins with itself"),
    "": (1, "there is no rule named root"),
}


def test_valid_grammars_have_no_fault(subtests: pytest.Subtests) -> None:
    for grammar in VALID:
        with subtests.test(grammar=grammar):
            assert syntax_fault(grammar) is None


def test_the_first_fault_is_told_with_its_line(subtests: pytest.Subtests) -> None:
    for grammar, (line, text) in INVALID.items():
        with subtests.test(grammar=grammar):
            fault = syntax_fault(grammar)
            assert fault is not None
            assert fault.line == line and text in fault.text["en"] and "{found}" not in fault.text["zh"]
