"""CMD_FLAGS.txt as the page shows and saves it: without its secrets, and checked by the parser of the command line."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from modules.config.flag_lines import read_lines, split_line
from modules.config.flags import SERVER, Flags, parse
from modules.core.errors import CommandLineError, OptionError, WebUIError, Words, both
from modules.options.load import OPTIONS
from modules.options.option import Option, Value
from modules.system.atomic_write import replace_file

MAX_BYTES = 20_000
HIDDEN = "••••"
"""Begins what is shown instead of a secret; a number follows."""
SECRETS = ("api_key", "gradio_auth")
TERMINAL_ONLY = ("trust_remote_code", "trust_changed_code")
"""Flags that let files of a model run as programs: the page may remove them, but not add them."""
FILES_ONLY = tuple(key for key, option in OPTIONS.items() if option.set_by == "files")
"""Flags that could spend secrets or run programs: the page may remove them, but neither add nor change them."""

ENDING = ("install", "explain", "perplexity", "price", "train", "rpc_server")
"""Flags with which the program ends instead of serving the page."""

_SECRET = re.compile(
    r"""(--(?:api[-_]key|gradio[-_]auth|admin[-_]key)(?:=|\s+(?!\#|--)))
    ( (?: "[^"\n]*" | '[^'\n]*' | \\[ ](?!\s*(?:--|\#|$)) | [^\s"'] )+ )""",
    re.VERBOSE,
)
"""A flag with a secret, as `flag_lines.split_line` splits it; its value may be in the next line."""
_EXAMPLE = '"me:my secret"'
"""In a comment of the file as it is shipped."""
_HELP = ("-h", "--help")  # the parser would print it and exit
_PLACEHOLDER = re.compile(HIDDEN + r"(\d{1,9})")
_TOO_LONG: Words = {
    "en": f"the text is longer than {MAX_BYTES} bytes; shorten it",
    "zh": f"文字超过 {MAX_BYTES} 字节，请缩短",
}
_NOT_A_SECRET: Words = {
    "en": f"{HIDDEN} stands for a secret of the file and can only stay behind its flag; type the secret instead",
    "zh": f"{HIDDEN} 代表文件中的密钥，只能留在原来的参数后面；请直接输入密钥",
}
_CHANGED: Words = {
    "en": "the file has been changed since it was shown here; copy what you typed, and open this page again",
    "zh": "文件在此处显示后已被修改；请先复制您输入的内容，再重新打开此页面",
}
_ENDS: Words = {
    "en": "with {flag} the program ends instead of serving the page; use it in a terminal",
    "zh": "使用 {flag} 时程序执行后即退出，不会启动页面；请在终端中使用",
}
_TERMINAL: Words = {
    "en": "{flag} lets files of a model run as programs, so it can only be added to the file by hand",
    "zh": "{flag} 会让模型附带的文件作为程序运行，因此只能手动写入该文件",
}
_BY_HAND: Words = {
    "en": "{flag} could send secrets or run programs, so it can only be changed in the file by hand",
    "zh": "{flag} 可能发送密钥或运行程序，因此只能手动修改该文件",
}


@dataclass(frozen=True)
class Change:
    """A flag with another value at the next start; `before` and `after` are "" for one that is not given."""

    flag: str
    before: str
    after: str


class FlagsFile:
    """The file of flags at `path`, which need not exist. `typed` are the arguments of the command line itself."""

    def __init__(self, path: Path, typed: Sequence[str] = ()) -> None:
        self.path, self._typed = path, tuple(typed)

    def text(self) -> str:
        """Return the file with numbered placeholders instead of secrets. Raises CommandLineError."""
        numbers = count(1)

        def hide(found: re.Match[str]) -> str:
            number = next(numbers)
            return found[0] if found[2] == _EXAMPLE else f"{found[1]}{HIDDEN}{number}"

        return _SECRET.sub(hide, self._content())

    def _content(self) -> str:
        return "\n".join(read_lines(self.path))

    @property
    def version(self) -> str:
        """A text that differs whenever the file has been changed."""
        try:
            status = self.path.stat()
        except OSError:
            return ""
        return f"{status.st_mtime_ns}-{status.st_size}-{status.st_ino}"

    def check(self, text: str) -> Flags:
        """Return the flags of the next start, with `text` as the file. Raises CommandLineError with the line."""
        return self._parse(self._with_secrets(text))

    def save(self, text: str, seen: str | None = None) -> Flags:
        """Check `text`, write it, and return the flags of the next start.

        Raises CommandLineError, also if the `version` of the file is no longer the one that was `seen`.
        """
        if seen is not None and seen != self.version:
            raise _at(0, _CHANGED)
        content = self._with_secrets(text)
        flags = self._parse(content)
        try:
            replace_file(self.path.resolve(), (content.rstrip("\n") + "\n").encode())
        except OSError as error:
            raise _at(0, both(f"{self.path.name}: {error.strerror or error}")) from error
        return flags

    def _with_secrets(self, text: str) -> str:
        """Return `text` with the secrets of the file instead of their placeholders."""
        if len(text.encode("utf-8", "replace")) > MAX_BYTES:
            raise _at(0, _TOO_LONG)
        secrets = [found[2] for found in _SECRET.finditer(self._content())]

        def put_back(found: re.Match[str]) -> str:
            placeholder = _PLACEHOLDER.fullmatch(found[2])
            known = placeholder is not None and 0 < int(placeholder[1]) <= len(secrets)
            return found[1] + secrets[int(placeholder[1]) - 1] if placeholder is not None and known else found[0]

        restored = _SECRET.sub(put_back, re.sub(r"\r\n?", "\n", text))
        for number, line in enumerate(restored.split("\n"), 1):
            if HIDDEN in line:
                raise _at(number, _NOT_A_SECRET)
        return restored

    def _parse(self, content: str) -> Flags:
        lines = content.split("\n")
        words = [_split(number, line) for number, line in enumerate(lines, 1)]
        for number, line in enumerate(words, 1):
            if flag := next((word for word in line if word in _HELP), ""):
                raise _at(number, _about(_ENDS, flag))
        try:
            flags = parse([*_joined(words), *self._typed])
        except WebUIError as error:
            raise _at(self._line_of_error(words, error), _problem(error)) from error
        self._refuse_added(flags, words)
        return flags

    def _line_of_error(self, words: Sequence[Sequence[str]], error: WebUIError) -> int:
        """Return the line at which `error`, of the whole file, begins: it is that of every longer beginning.

        Beginnings that end before a value tell nothing of other errors. Returns 0 if no line is at fault.
        """
        *ends, line = [0, *(number for number, line_words in enumerate(words, 1) if line_words)]
        first, end, step = 1, len(ends), 1  # the other beginnings that may have it, and how far to go back
        while first < end:
            start = max(end - step, first)
            answers = ((at, self._has_error(words[: ends[at]], error)) for at in range(start, end))
            at, has_error = next(((at, answer) for at, answer in answers if answer is not None), (start, None))
            if has_error is False:
                first, step = at + 1, max((end - at) // 2, 1)
            else:
                line, end, step = ends[at] if has_error else line, start, step * 2
        return line

    def _has_error(self, words: Sequence[Sequence[str]], error: WebUIError) -> bool | None:
        """Return whether a beginning of the file has this error; None if it ends before a value."""
        try:
            parse([*_joined(words), *self._typed])
        except WebUIError as other:
            return (
                True if _subject(other) == _subject(error) else None if isinstance(other, CommandLineError) else False
            )
        return False

    def _refuse_added(self, flags: Flags, words: Sequence[Sequence[str]]) -> None:
        present = parse(self._typed)
        with contextlib.suppress(WebUIError):  # an invalid file gives no flags
            present = parse([*_joined(split_line("", line) for line in read_lines(self.path)), *self._typed])
        for keys, problem in ((TERMINAL_ONLY, _TERMINAL), (FILES_ONLY, _BY_HAND), (ENDING, _ENDS)):
            for key in keys:
                if _value(flags, key) and _value(flags, key) != _value(present, key):
                    raise _at(_line_of(words, key), _about(problem, f"--{_table()[key].flag}"))


def shown_arguments(arguments: Sequence[str]) -> str:
    """Return the arguments of a command line, quoted where needed, without secrets."""
    shown: list[str] = []
    hides_next = False
    for argument in arguments:
        name, equals, _ = argument.partition("=")
        is_secret = name.lstrip("-").replace("-", "_") in SECRETS and name.startswith("--")
        shown.append(HIDDEN if hides_next else f"{name}={HIDDEN}" if is_secret and equals else shlex.quote(argument))
        hides_next = is_secret and not equals
    return " ".join(shown)


def changes(before: Flags, after: Flags) -> list[Change]:
    """Return the flags with another value in `after`; values of secrets are not shown."""
    changed = []
    for key, option in _table().items():
        old, new = _value(before, key), _value(after, key)
        if old != new:
            changed.append(Change(f"--{option.flag}", _shown(option, old), _shown(option, new)))
    return changed


def _table() -> Mapping[str, Option]:
    return {**SERVER, **OPTIONS}


def _value(flags: Flags, key: str) -> Value | None:
    """Return the value of a flag, None if it is not given or has its default value."""
    value = flags.server.get(key, flags.load.get(key))
    return None if key in SERVER and value == SERVER[key].default else value


def _shown(option: Option, value: Value | None) -> str:
    if value is None:
        return ""
    return HIDDEN if option.key in SECRETS else str(value).lower() if isinstance(value, bool) else str(value)


def _line_of(words: Sequence[Sequence[str]], key: str) -> int:
    """Return the first line with the flag of an option, 0 if there is none."""
    for number, line in enumerate(words, 1):
        if any(word.partition("=")[0].lstrip("-").replace("-", "_") == key for word in line):
            return number
    return 0


def _about(problem: Words, flag: str) -> Words:
    return {language: text.format(flag=flag) for language, text in problem.items()}


def _split(number: int, line: str) -> list[str]:
    try:
        return split_line("", line)
    except CommandLineError as error:
        problem = {language: words.lstrip("：: ").rstrip("。.") for language, words in error.problem.items()}
        raise _at(number, problem) from error


def _joined(words: Iterable[Sequence[str]]) -> list[str]:
    return [word for line in words for word in line]


def _subject(error: WebUIError) -> str:
    """Return the flag or the word that an error of the parser is about."""
    return error.option if isinstance(error, OptionError) else error.say("en")


def _problem(error: WebUIError) -> Words:
    return error.problem if isinstance(error, CommandLineError) else {"en": error.say("en"), "zh": error.say("zh")}


def _at(line: int, problem: Words) -> CommandLineError:
    if not line:
        return CommandLineError(problem)
    return CommandLineError({"en": f"line {line}: {problem['en']}", "zh": f"第 {line} 行：{problem['zh']}"})
