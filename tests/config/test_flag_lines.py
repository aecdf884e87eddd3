"""The lines of CMD_FLAGS.txt: words, quotes, comments, encodings, and errors with their line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from modules.config import flags
from modules.config.flag_lines import with_flags_file
from modules.core.errors import CommandLineError
from modules.core.paths import ROOT


def flags_file_arguments(path: Path, *lines: str, encoding: str = "utf-8", newline: str = "\n") -> list[str]:
    """Return the arguments in a flags file with these lines."""
    path.write_bytes(newline.join(lines).encode(encoding))
    return with_flags_file(path, [])


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "CMD_FLAGS.txt"


def test_the_flags_file_is_split_like_a_shell_line(file: Path) -> None:
    flag_lines = ["--api  --model 'my model' ", '--model-dir "/a b" \\', "--mlock"]
    arguments = flags_file_arguments(file, "# 注释 --cpu", "", "  # --disk", *flag_lines, "")
    assert arguments == ["--api", "--model", "my model", "--model-dir", "/a b", "--mlock"]


def test_a_hash_sign_within_a_word_is_not_a_comment(file: Path) -> None:
    assert flags_file_arguments(file, "--api-key a#b") == ["--api-key", "a#b"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (r"--model-dir C:\AI\my-models", ["--model-dir", r"C:\AI\my-models"]),
        (r"--model-dir C:\new\table --api", ["--model-dir", r"C:\new\table", "--api"]),
        (r"--model-dir=C:\AI\ --api", ["--model-dir=C:\\AI\\", "--api"]),
        ("--model-dir C:\\AI\\", ["--model-dir", r"C:\AI"]),
        (r'--model-dir "C:\My Models\" --api', ["--model-dir", "C:\\My Models\\", "--api"]),
        (r"--model-dir 'D:\a b' # mine", ["--model-dir", r"D:\a b"]),
        (r"--model-dir \\server\share\x", ["--model-dir", r"\\server\share\x"]),
        (r'--model-dir=C:\"My Models"\x', ["--model-dir=C:\\My Models\\x"]),
        (r"--model-dir /home/my\ models --api", ["--model-dir", "/home/my models", "--api"]),
        (r"--model-dir C:\AI\ # mine", ["--model-dir", "C:\\AI\\"]),
        ('--model "" --api-key "a # b"', ["--model", "", "--api-key", "a # b"]),
        ("--api # --cpu 'unclosed", ["--api"]),
        ("--api\u3000--cpu\t--mlock", ["--api", "--cpu", "--mlock"]),
    ],
)
def test_backslashes_are_kept_and_comments_may_follow_flags(file: Path, line: str, words: list[str]) -> None:
    assert flags_file_arguments(file, line) == words


def test_the_flags_file_may_be_the_utf16_of_powershell(file: Path) -> None:
    assert flags_file_arguments(file, "--model 模型", "--api", encoding="utf-16", newline="\r\n") == [
        "--model",
        "模型",
        "--api",
    ]


def test_the_flags_file_may_have_a_bom_and_crlf(file: Path) -> None:
    assert flags_file_arguments(file, "--model 模型", encoding="utf-8-sig") == ["--model", "模型"]
    assert flags_file_arguments(file, "--api", "# x", "--cpu", newline="\r\n") == ["--api", "--cpu"]


def test_arguments_take_precedence_over_the_flags_file(file: Path) -> None:
    file.write_text("--n_ctx 1024 --gpu-memory 10 20 --mlock\n")
    arguments = with_flags_file(file, ["--n-ctx=512", "--gpu_memory", "5", "--mlock=false"])
    assert flags.parse(arguments).load == {"n_ctx": 512, "gpu_memory": "5", "mlock": False}


def test_the_flags_file_may_be_missing(file: Path) -> None:
    assert with_flags_file(file, ["--api"]) == ["--api"]


def test_the_examples_in_the_shipped_flags_file_are_valid(file: Path) -> None:
    shipped = (ROOT / "CMD_FLAGS.txt").read_text(encoding="utf-8")
    examples = re.findall("^# (--.+)", shipped, re.MULTILINE)
    assert len(examples) == 2
    for example in examples:
        assert flags.parse(flags_file_arguments(file, example)) != flags.parse([])


def test_an_error_in_the_flags_file_names_its_line(file: Path) -> None:
    def refused(content: bytes) -> CommandLineError:
        file.write_bytes(content)
        with pytest.raises(CommandLineError) as refusal:
            with_flags_file(file, [])
        return refusal.value

    unclosed = refused(b"--api\n--model 'x")
    assert unclosed.say("en") == f"Command line: {file}:2: no closing quotation mark."
    assert unclosed.say("zh") == f"命令行：{file}:2：引号没有闭合。"
    gbk = refused("--api\n\n# 模型".encode("gbk"))
    assert gbk.say("en") == f"Command line: {file}:3: not UTF-8."
    assert gbk.say("zh") == f"命令行：{file}:3：不是 UTF-8 编码。"


def test_an_unreadable_flags_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandLineError) as refused:
        with_flags_file(tmp_path, [])
    assert refused.value.say("en") == f"Command line: {tmp_path}: cannot be read (Is a directory)."
    assert refused.value.say("zh") == f"命令行：{tmp_path}：无法读取（Is a directory）。"
