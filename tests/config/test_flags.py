"""The command line: server flags, load options, ignored flags and errors."""

from __future__ import annotations

import pytest

from modules.config import flags
from modules.config.flags import SERVER
from modules.config.legacy_flags import IGNORED_FLAGS
from modules.core.errors import CommandLineError, OptionError, UnknownOption
from modules.options.load import OPTIONS
from modules.options.option import Option, Value

REQUIRED = (
    *("model", "loader", "listen", "listen-host", "listen-port", "api", "api-key", "gradio-auth", "settings"),
    *(
        "model-dir",
        "lora-dir",
        "logs-dir",
        "character-dir",
        "persona-dir",
        "auto-launch",
        "nowebui",
        "explain",
        "model-menu",
        "multi-user",
    ),
)


def other_value(option: Option) -> Value:
    if isinstance(option.default, bool):
        return not option.default
    if isinstance(option.default, str):
        return next(
            (str(choice) for choice in option.choices if choice != option.default), option.example or "some text"
        )
    if option.choices:
        return next(choice for choice in option.choices if choice != option.default)
    more = option.default + max(option.least, 1)
    return option.parse(option.minimum if option.maximum is not None and more > option.maximum else more)


def arguments_for(option: Option, value: Value, flag: str) -> list[str]:
    return [f"--{flag}", *str(value).split()] if option.many else [f"--{flag}={value!s}"]


def spellings(flag: str) -> set[str]:
    return {flag, flag.replace("-", "_"), flag.replace("_", "-")}


def test_the_server_has_every_required_flag() -> None:
    assert set(REQUIRED) <= {option.flag for option in SERVER.values()}


def test_without_arguments_the_server_has_its_defaults_and_no_load_options() -> None:
    command_line = flags.parse([])
    assert command_line.server == {key: option.default for key, option in SERVER.items()}
    assert command_line.load == {}


def test_every_server_flag_is_accepted_with_dashes_and_underscores(subtests: pytest.Subtests) -> None:
    for key in SERVER:
        with subtests.test(flag=key):
            option = SERVER[key]
            for spelling in spellings(option.flag):
                expected = str(other_value(option)).replace(" ", option.joint) if option.many else other_value(option)
                assert flags.parse(arguments_for(option, other_value(option), spelling)).server[key] == expected


def test_every_load_option_is_accepted_with_dashes_and_underscores(subtests: pytest.Subtests) -> None:
    for key in OPTIONS:
        with subtests.test(option=key):
            option = OPTIONS[key]
            for spelling in spellings(option.flag):
                command_line = flags.parse(arguments_for(option, other_value(option), spelling))
                assert command_line.load == {key: other_value(option)}


def test_server_flags_and_load_options_do_not_collide() -> None:
    names = [option.flag.replace("-", "_") for option in (*SERVER.values(), *OPTIONS.values())]
    assert len(names) == len(set(names))


def test_a_typical_command_line_is_parsed() -> None:
    line = "--model SmolLM2 --loader llama.cpp --n_ctx=4096 --no-mmap --threads 2 --listen --listen-port 8000 --api"
    command_line = flags.parse(line.split())
    assert (command_line.text("model"), command_line.text("loader")) == ("SmolLM2", "llama.cpp")
    assert command_line.load == {"n_ctx": 4096, "no_mmap": True, "threads": 2}
    assert command_line.on("listen")
    assert command_line.on("api")
    assert command_line.server["listen_port"] == 8000


def test_an_explicit_default_is_kept() -> None:
    """An explicit value takes precedence over saved settings, even if it is the default."""
    assert flags.parse(["--n_batch=512", "--mlock=false"]).load == {"n_batch": 512, "mlock": False}


@pytest.mark.parametrize(("word", "nearest"), [("--n-ctxx", "--n_ctx"), ("--modle", "--model"), ("--zzzzzz", "")])
def test_an_unknown_flag_names_the_nearest(word: str, nearest: str) -> None:
    with pytest.raises(UnknownOption) as unknown:
        flags.parse([word, "5"])
    assert (unknown.value.name, unknown.value.nearest) == (word, nearest)


@pytest.mark.parametrize("word", ["stray", "-x", "--"])
def test_an_argument_without_a_flag_is_rejected(word: str) -> None:
    with pytest.raises((UnknownOption, CommandLineError)):
        flags.parse([word])


INVALID = [
    ["--listen-port", "0"],
    ["--listen-port", "65536"],
    ["--listen-port", "http"],
    ["--listen=perhaps"],
    ["--gradio-auth", "nobody"],
    ["--gradio-auth", "user:"],
    ["--n_ctx=-1"],
    ["--tensor_split", "half"],
]


def test_an_invalid_value_is_rejected(subtests: pytest.Subtests) -> None:
    for arguments in INVALID:
        with subtests.test(arguments=arguments), pytest.raises(OptionError):
            flags.parse(arguments)


def test_a_flag_without_its_value_is_rejected() -> None:
    with pytest.raises(CommandLineError):
        flags.parse(["--model"])


def test_commands_and_secrets_need_a_value_that_is_not_empty(subtests: pytest.Subtests) -> None:
    """Without it, the server would start instead of a command, or unprotected: the variable of a shell was not set."""
    commands = ("perplexity", "price", "train", "install", "rpc-server")
    for flag in (*commands, "api-key", "api-key-file", "gradio-auth", "gradio-auth-path"):
        for value in ("", "  "):
            with (
                subtests.test(flag=flag, value=value),
                pytest.raises(CommandLineError, match=f"--{flag} needs a value"),
            ):
                flags.parse([f"--{flag}", value])
    assert flags.parse(["--model", "", "--model-dir="]).server == flags.parse([]).server


def test_the_help_names_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        flags.parse(["--help"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    for option in (*SERVER.values(), *OPTIONS.values()):
        assert f"--{option.flag}" in printed


def test_gradio_auth_accepts_several_users() -> None:
    assert flags.logins("me:secret,you:other") == [("me", "secret"), ("you", "other")]
    assert flags.logins("") == []


def test_the_last_of_repeated_flags_takes_precedence() -> None:
    line = "--gpu-memory 10 20 --threads 4 --cpu --gpu_memory 5 --threads=2 --cpu=no --listen-port 1 --listen_port 2"
    command_line = flags.parse(line.split())
    assert command_line.load == {"gpu_memory": "5", "threads": 2, "cpu": False}
    assert command_line.server["listen_port"] == 2


def test_a_removed_flag_is_ignored_with_its_values_and_reported(subtests: pytest.Subtests) -> None:
    for flag in IGNORED_FLAGS:
        with subtests.test(flag=flag):
            for spelling in spellings(flag):
                for values in ([], ["1"], ["a", "-1"]):
                    command_line = flags.parse(["--n_ctx=512", f"--{spelling}", *values, "--api"])
                    assert (command_line.load, command_line.on("api")) == ({"n_ctx": 512}, True)
                    assert [warning["en"].partition(" ")[0] for warning in command_line.warnings] == [f"--{spelling}"]
                    assert all(f"--{spelling} 已不再支持" in warning["zh"] for warning in command_line.warnings)
            assert len(flags.parse([f"--{flag}=x", f"--{flag}"]).warnings) == 1


def test_no_flag_is_both_ignored_and_supported() -> None:
    supported = {option.flag.replace("_", "-") for option in (*SERVER.values(), *OPTIONS.values())}
    assert supported.isdisjoint(flag.replace("_", "-") for flag in IGNORED_FLAGS)


def test_the_replacement_of_an_ignored_flag_exists() -> None:
    for replacement in filter(None, IGNORED_FLAGS.values()):
        flags.parse([*replacement.split(), *([] if " " in replacement else ["8"])])
        flag = next(flag for flag, instead in IGNORED_FLAGS.items() if instead == replacement)
        assert replacement in flags.parse([f"--{flag}"]).warnings[0]["zh"]


def test_removed_flags_of_the_original_web_ui_are_ignored() -> None:
    old = """no-cache force-safetensors cache-capacity deepspeed model_type pre_layer checkpoint monkey-patch chat
        notebook autogptq chat-buttons extensions"""
    assert set(old.split()) <= set(IGNORED_FLAGS)


@pytest.mark.parametrize("word", ["--admin-key", "--ssl-keyfile", "--no-cach", "--chatt"])
def test_unsupported_security_flags_and_unknown_flags_are_errors(word: str) -> None:
    with pytest.raises(UnknownOption):
        flags.parse([word])


def test_an_ignored_flag_does_not_hide_the_missing_value_of_another() -> None:
    with pytest.raises(CommandLineError):
        flags.parse(["--model", "--chat", "name"])


def test_flags_of_todays_original_are_taken_under_our_names() -> None:
    read = flags.parse(["--ctx-size", "4096", "--gpu-layers=-1", "--no-kv-offload", "--batch_size", "256", "--api"])
    assert read.load == {"n_ctx": 4096, "max_seq_len": 4096, "n_gpu_layers": -1, "no_offload_kqv": True, "n_batch": 256}
    assert read.on("api") and not read.warnings
    with pytest.raises(CommandLineError):
        flags.parse(["--ctx-size"])
    with pytest.raises(OptionError):
        flags.parse(["--ctx-size", "many"])
