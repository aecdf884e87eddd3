"""The command line: the server's own flags, every load option, and what is not understood."""

from __future__ import annotations

import pytest

from modules import flags
from modules.errors import CommandLineError, OptionError, UnknownOption
from modules.flags import SERVER
from modules.load_options import OPTIONS
from modules.options import Option, Value

ISSUE = (
    *("model", "loader", "listen", "listen-host", "listen-port", "api", "api-key", "gradio-auth", "settings"),
    *("model-dir", "lora-dir", "auto-launch", "nowebui", "explain"),
)


def changed(option: Option) -> Value:
    if isinstance(option.default, bool):
        return not option.default
    if isinstance(option.default, str):
        return next((str(each) for each in option.choices if each != option.default), option.example or "some text")
    if option.choices:
        return next(each for each in option.choices if each != option.default)
    return option.parse(option.default + 1)


def words_for(option: Option, value: Value, flag: str) -> list[str]:
    return [f"--{flag}", *str(value).split()] if option.many else [f"--{flag}={value!s}"]


def spellings(flag: str) -> set[str]:
    return {flag, flag.replace("-", "_"), flag.replace("_", "-")}


def test_the_flags_of_the_server_are_there() -> None:
    assert set(ISSUE) <= {option.flag for option in SERVER.values()}


def test_nothing_typed_is_the_defaults_and_no_load_option() -> None:
    read = flags.read([])
    assert read.server == {key: option.default for key, option in SERVER.items()}
    assert read.load == {}


@pytest.mark.parametrize("key", SERVER)
def test_every_flag_of_the_server_can_be_typed_with_dashes_or_underscores(key: str) -> None:
    option = SERVER[key]
    for spelling in spellings(option.flag):
        assert flags.read(words_for(option, changed(option), spelling)).server[key] == changed(option)


@pytest.mark.parametrize("key", OPTIONS)
def test_every_load_option_can_be_typed_with_dashes_or_underscores(key: str) -> None:
    option = OPTIONS[key]
    for spelling in spellings(option.flag):
        read = flags.read(words_for(option, changed(option), spelling))
        assert read.load == {key: changed(option)}


def test_no_flag_means_two_things() -> None:
    every = [option.flag.replace("-", "_") for option in (*SERVER.values(), *OPTIONS.values())]
    assert len(every) == len(set(every))


def test_a_line_as_one_would_type_it() -> None:
    line = "--model SmolLM2 --loader llama.cpp --n_ctx=4096 --no-mmap --threads 2 --listen --listen-port 8000 --api"
    read = flags.read(line.split())
    assert (read.text("model"), read.text("loader")) == ("SmolLM2", "llama.cpp")
    assert read.load == {"n_ctx": 4096, "no_mmap": True, "threads": 2}
    assert read.on("listen")
    assert read.on("api")
    assert read.server["listen_port"] == 8000


def test_a_typed_default_is_typed_all_the_same() -> None:
    """For it stands above what was saved."""
    assert flags.read(["--n_batch=512", "--mlock=false"]).load == {"n_batch": 512, "mlock": False}


@pytest.mark.parametrize(("word", "guess"), [("--n-ctxx", "--n_ctx"), ("--modle", "--model"), ("--zzzzzz", "")])
def test_an_unknown_flag_names_the_nearest(word: str, guess: str) -> None:
    with pytest.raises(UnknownOption) as unknown:
        flags.read([word, "5"])
    assert (unknown.value.name, unknown.value.nearest) == (word, guess)


@pytest.mark.parametrize("word", ["stray", "-x", "--"])
def test_a_word_that_belongs_to_no_flag_is_refused(word: str) -> None:
    with pytest.raises((UnknownOption, CommandLineError)):
        flags.read([word])


@pytest.mark.parametrize(
    "words",
    [
        ["--listen-port", "0"],
        ["--listen-port", "65536"],
        ["--listen-port", "http"],
        ["--listen=perhaps"],
        ["--gradio-auth", "nobody"],
        ["--gradio-auth", "user:"],
        ["--n_ctx=-1"],
        ["--tensor_split", "half"],
    ],
)
def test_an_unacceptable_value_is_refused(words: list[str]) -> None:
    with pytest.raises(OptionError):
        flags.read(words)


def test_a_flag_that_lacks_its_value_is_refused() -> None:
    with pytest.raises(CommandLineError):
        flags.read(["--model"])


def test_the_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        flags.read(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for option in (*SERVER.values(), *OPTIONS.values()):
        assert f"--{option.flag}" in printed


def test_who_may_use_the_page_may_be_several() -> None:
    assert flags.logins(flags.read(["--gradio-auth", "me:secret,you:other"])) == [("me", "secret"), ("you", "other")]
    assert flags.logins(flags.read([])) == []
