"""CMD_FLAGS.txt as the page shows and saves it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.config import flags, flags_file
from modules.config.flags_file import HIDDEN, MAX_BYTES, Change, FlagsFile, changes, shown_arguments
from modules.core.errors import CommandLineError

SECRET = '# mine\n--gradio-auth "me:open sesame"\n--api-key=sk-123 --listen\n'


@pytest.fixture
def file(tmp_path: Path) -> FlagsFile:
    (tmp_path / "CMD_FLAGS.txt").write_text(SECRET)
    return FlagsFile(tmp_path / "CMD_FLAGS.txt")


def test_an_error_is_reported_with_its_line(file: FlagsFile, subtests: pytest.Subtests) -> None:
    for text, line, problem in (
        ("--listen\n\n# no\n--lissten", 4, "--lissten"),
        ("--model\nx.gguf\n--listen-port\n# the end", 3, "needs a value"),
        ("--listen\n--listen-port 99999999\n--api", 2, "65535"),
        ('--model "x', 1, "quotation mark"),
        ("--n_ctx 4096\n--n_ctx few", 2, "whole number"),
        ("x.gguf", 1, "x.gguf"),
        ("--n_ctx few\n--api\n--lissten\n--listen", 3, "--lissten"),
        ("--n_ctx few\n--listen-port\n7001\n--api", 1, "n_ctx"),
        ("--listen-port\n\nmany\n--api", 3, "many"),
        ("--n_ctx few\n--n_ctx 4096\n--n_ctx many\n# the end", 3, "many"),
        ("--api\n--model\nx.gguf\n--model", 4, "line 4: --model needs a value"),
    ):
        with subtests.test(text=text):
            with pytest.raises(CommandLineError) as refused:
                file.check(text)
            assert f"line {line}: " in refused.value.say("en") and problem in refused.value.say("en")
            assert f"第 {line} 行：" in refused.value.say("zh")
            with pytest.raises(CommandLineError):
                file.save(text)
    assert file.path.read_text() == SECRET


def test_the_line_of_an_error_is_found_beside_what_is_typed(tmp_path: Path) -> None:
    file = FlagsFile(tmp_path / "CMD_FLAGS.txt", ["--n_ctx", "4096"])
    with pytest.raises(CommandLineError, match="line 2: listen_port: 'many'"):
        file.check("--n_ctx few\n--listen-port many\n--api")


@pytest.mark.parametrize("line", [1, 2, 700, 1399, 1400])
def test_the_line_of_an_error_is_found_in_a_long_file_without_trying_every_line(
    file: FlagsFile, line: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[int] = []

    def counted(arguments: list[str]) -> flags.Flags:
        tries.append(len(arguments))
        return flags.parse(arguments)

    monkeypatch.setattr(flags_file, "parse", counted)
    lines = ["--api"] * 1400
    lines[line - 1] = "--top-k"
    with pytest.raises(CommandLineError, match=f"line {line}: There is no option"):
        file.check("\n".join(lines))
    assert len(tries) < 50


def test_a_file_without_errors_is_saved_with_its_comments(file: FlagsFile) -> None:
    saved = file.save("# 我的\n--model x.gguf # with a comment\n\n")
    assert saved.text("model") == "x.gguf"
    assert file.path.read_text() == "# 我的\n--model x.gguf # with a comment\n"


def test_what_is_typed_on_the_command_line_counts_too(tmp_path: Path) -> None:
    file = FlagsFile(tmp_path / "CMD_FLAGS.txt", ["--listen-port", "7001"])
    assert file.check("--listen-port 7002 --api").server["listen_port"] == 7001


def test_secrets_are_not_shown_but_kept(file: FlagsFile) -> None:
    shown = file.text()
    assert shown == f"# mine\n--gradio-auth {HIDDEN}1\n--api-key={HIDDEN}2 --listen\n"
    lines = shown.splitlines()
    file.save("\n".join([lines[2], lines[1], "--api"]))
    assert file.path.read_text() == '--api-key=sk-123 --listen\n--gradio-auth "me:open sesame"\n--api\n'


def test_secrets_are_found_however_they_are_written(tmp_path: Path, subtests: pytest.Subtests) -> None:
    file = FlagsFile(tmp_path / "CMD_FLAGS.txt")
    for text in (
        "--gradio-auth me:\"open sesame\",you:'a sesame' --api",
        "--gradio_auth me:open\\ sesame,you:sesame --api",
        "--api-key\nsesame\n--api",
        "# --api_key=sesame\n--api",
        "--api-key\tsesame --api",
    ):
        with subtests.test(text=text):
            file.path.write_text(f"{text}\n")
            assert "sesame" not in file.text() and "--api" in file.text()
            file.save(file.text())
            assert file.path.read_text() == f"{text}\n"
    file.path.write_text("--api-key # sesame is no key\n")
    assert "sesame" in file.text()


def test_a_command_line_is_shown_without_secrets() -> None:
    arguments = ["--gradio-auth", "me:open sesame", "--api-key=x y", "--model", "a b.gguf", "--listen"]
    assert shown_arguments(arguments) == f"--gradio-auth {HIDDEN} --api-key={HIDDEN} --model 'a b.gguf' --listen"


def test_a_secret_cannot_be_moved_to_where_it_would_be_shown(file: FlagsFile, subtests: pytest.Subtests) -> None:
    unknown = (f"--api-key {HIDDEN}{number}" for number in ("7", "0", "9" * 5000))
    for text in (f"--model {HIDDEN}1", f"# {HIDDEN}1", *unknown):
        with subtests.test(text=text), pytest.raises(CommandLineError, match="stands for a secret"):
            file.save(text)
    assert file.path.read_text() == SECRET


def test_code_of_models_cannot_be_allowed_by_the_page(tmp_path: Path) -> None:
    file = FlagsFile(tmp_path / "CMD_FLAGS.txt")
    with pytest.raises(CommandLineError, match="line 2: --trust-remote-code"):
        file.save("--listen\n--trust_remote_code")
    file.path.write_text("--trust-remote-code\n")
    file.save("--trust-remote-code --api")
    file.save("--api")
    assert file.path.read_text() == "--api\n"


def test_where_keys_are_sent_cannot_be_decided_by_the_page(tmp_path: Path) -> None:
    file = FlagsFile(tmp_path / "CMD_FLAGS.txt")
    for line in ("--server-url http://h", "--server-url=http://h --server-key-env HF_TOKEN"):
        with pytest.raises(CommandLineError, match="line 1: --server-"):
            file.save(line)
    file.path.write_text("--server-url http://h --server-key-env KEY\n")
    for line in ("--server-url http://other --server-key-env KEY", "--server-url http://h --server-key-env HF_TOKEN"):
        with pytest.raises(CommandLineError, match="by hand"):
            file.save(line)
    file.save("--server-url http://h --server-key-env KEY --api")
    file.save("--api")


def test_flags_that_end_the_program_are_refused(file: FlagsFile, subtests: pytest.Subtests) -> None:
    for flag in ("--help", "-h", "--install llama.cpp", "--explain", "--train run.yaml"):
        with subtests.test(flag=flag), pytest.raises(CommandLineError, match="line 2: with -"):
            file.save(f"--api\n{flag}")


def test_a_text_that_is_too_long_is_refused(file: FlagsFile) -> None:
    with pytest.raises(CommandLineError, match=str(MAX_BYTES)):
        file.save("#" * (MAX_BYTES + 1))


def test_changes_list_what_the_next_start_does_differently() -> None:
    before = flags.parse(["--listen", "--n_ctx", "2048", "--api-key", "old"])
    after = flags.parse(["--listen-port", "8000", "--api-key", "new", "--mlock"])
    assert changes(before, after) == [
        Change("--listen", "true", ""),
        Change("--listen-port", "", "8000"),
        Change("--api-key", HIDDEN, HIDDEN),
        Change("--n_ctx", "2048", ""),
        Change("--mlock", "", "true"),
    ]


def test_a_file_that_cannot_be_written_is_an_error(file: FlagsFile) -> None:
    file.path.unlink()
    file.path.symlink_to(file.path.parent / "no folder" / "CMD_FLAGS.txt")
    with pytest.raises(CommandLineError, match=r"CMD_FLAGS\.txt: No such file or directory"):
        file.save("--listen")
