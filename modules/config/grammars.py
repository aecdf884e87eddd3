"""Grammar files: GBNF texts by name, as the original web UI keeps them in `grammars/`."""

from __future__ import annotations

from pathlib import Path

from modules.config.named_files import NamedFiles
from modules.core.errors import GrammarNotFound, InvalidGrammar, SettingsError, both
from modules.options import gbnf
from modules.options.gbnf_syntax import syntax_fault
from modules.options.generation import PARAMETERS

_TOO_LARGE = {
    "en": f"the file is larger than {gbnf.MAX_BYTES} bytes, the limit for grammars",
    "zh": f"文件超过语法的上限 {gbnf.MAX_BYTES} 字节",
}


class Grammars(NamedFiles):
    """The grammars in `folder`, which need not exist."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, ".gbnf", GrammarNotFound, "grammar")

    def read(self, name: str) -> str:
        """Return a grammar, which may be invalid. Raises GrammarNotFound, or SettingsError if it cannot be read."""
        path = self.existing(name)
        try:
            if path.stat().st_size > gbnf.MAX_BYTES:
                raise SettingsError(str(path), _TOO_LARGE)
            return path.read_text(encoding="utf-8-sig").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(str(path), both(str(error))) from error

    def save(self, name: str, grammar: str) -> None:
        """Save a valid grammar; `restore(name, overwritten=True)` brings back what it replaces.

        Raises InvalidGrammar with the line of the first error, or OptionError if it exceeds a limit or for its name.
        """
        check(grammar)
        self.write(name, grammar.strip().encode() + b"\n")


def check(grammar: str) -> None:
    """Raise OptionError for a grammar that exceeds a limit, InvalidGrammar for one with an error."""
    PARAMETERS["grammar_string"].parse(grammar)
    if fault := syntax_fault(grammar):
        raise InvalidGrammar(fault.line, fault.text)
