"""Grammar files are checked before they are saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.config.grammars import Grammars, check
from modules.core.errors import GrammarNotFound, InvalidGrammar, OptionError, SettingsError
from modules.core.paths import ROOT


@pytest.fixture
def grammars(tmp_path: Path) -> Grammars:
    return Grammars(tmp_path / "grammars")


def test_a_grammar_is_saved_and_read(grammars: Grammars) -> None:
    grammars.save("yes or no", '\nroot ::= "yes" | "no"\n\n')
    assert grammars.names() == ["yes or no"]
    assert grammars.read("yes or no") == 'root ::= "yes" | "no"'
    with pytest.raises(GrammarNotFound) as error:
        grammars.read("yes or n")
    assert error.value.nearest == "yes or no"


def test_an_invalid_grammar_is_not_saved_and_its_line_is_named(grammars: Grammars) -> None:
    grammars.save("a", 'root ::= "yes"')
    with pytest.raises(InvalidGrammar) as error:
        grammars.save("a", 'root ::= "yes" |\n  "no" )')
    assert error.value.say("en") == "The grammar has an error in line 2: “)” is not understood here."
    assert error.value.say("zh") == "语法第 2 行有误：无法理解“)”。"
    with pytest.raises(OptionError):
        grammars.save("a", "root ::= " + "(" * 300 + '"a"' + ")" * 300)
    assert grammars.read("a") == 'root ::= "yes"'


def test_a_file_of_another_program_that_is_too_large_or_no_text_is_an_error(grammars: Grammars) -> None:
    grammars.folder.mkdir()
    (grammars.folder / "large.gbnf").write_bytes(b"#" * 64_001)
    (grammars.folder / "bytes.gbnf").write_bytes(b"\xff\xfe")
    for name in ("large", "bytes"):
        with pytest.raises(SettingsError) as error:
            grammars.read(name)
        assert name in error.value.say("en")


def test_the_shipped_grammars_are_valid() -> None:
    shipped = Grammars(ROOT / "grammars")
    assert {"json", "list", "arithmetic"} <= set(shipped.names())
    for name in ("json", "list", "arithmetic"):
        check(shipped.read(name))
