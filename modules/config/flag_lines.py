"""Split the lines of CMD_FLAGS.txt into the arguments of a command line."""

from __future__ import annotations

import re
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable
from pathlib import Path

from modules.core.errors import CommandLineError, Words


def with_flags_file(path: Path, arguments: Iterable[str]) -> list[str]:
    """Return the arguments in the file at `path` (CMD_FLAGS.txt) followed by `arguments`, which take precedence.

    A missing file counts as empty. Raises CommandLineError if the file cannot be read or parsed.
    """
    lines = [split_line(f"{path}:{number}", line) for number, line in enumerate(read_lines(path), 1)]
    return [*(argument for line in lines for argument in line), *arguments]


def read_lines(path: Path) -> list[str]:
    """Return the lines of a file of flags; a missing file has none. Raises CommandLineError."""
    try:
        content = path.read_bytes()
        # PowerShell's `>` writes UTF-16.
        text = content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except FileNotFoundError:
        text = ""
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise _error_at(f"{path}:{line}", {"en": "not UTF-8", "zh": "不是 UTF-8 编码"}) from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise _error_at(str(path), {"en": f"cannot be read ({reason})", "zh": f"无法读取（{reason}）"}) from error
    return re.split(r"\r\n|\r|\n", text)


_TOKEN = re.compile(
    r"""\s+
    | (?P<comment> \#.* )
    | (?P<word> (?: "[^"]*" | '[^']*' | \\[ ](?!\s*(?:--|\#|$)) | [^\s"'] )+ )
    | (?P<unclosed> ["'] )
    """,
    re.VERBOSE,
)
_PART = re.compile(r"""(["'])(.*?)\1|\\( )|(.)""")


def split_line(location: str, line: str) -> list[str]:
    """Split one line at white space outside quotes; a word that begins with # begins a comment.

    Unlike in a shell, backslashes are kept, for the paths of Windows, but for one before a space within a path; a flag
    after that space shows that it separates. One at the end of the line is dropped: the original used it to continue
    a line.
    """
    line = line.strip().removesuffix("\\")
    words = []
    position = 0
    while position < len(line):
        token = _TOKEN.match(line, position)
        if token is None or token["unclosed"]:
            raise _error_at(location, {"en": "no closing quotation mark", "zh": "引号没有闭合"})
        if token["word"]:
            words.append(_PART.sub(lambda part: part[2] if part[1] else part[3] or part[4], token["word"]))
        position = token.end()
    return words


def _error_at(location: str, problem: Words) -> CommandLineError:
    return CommandLineError({"en": f"{location}: {problem['en']}.", "zh": f"{location}：{problem['zh']}。"})
