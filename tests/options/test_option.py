"""`Option`: valid and invalid values and their errors; and the command line built from Options."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from modules.core.errors import CommandLineError, OptionError, UnknownOption
from modules.core.quotes import in_quotes
from modules.options.option import FlagParser, Option, Value, nearest, parse_all

WORDS = {"en": "some", "zh": "某个"}


def option(key: str, default: Value, flag: str = "", **attributes: Any) -> Option:
    return Option(key, flag or key, default, WORDS, WORDS, **attributes)


CONTEXT = option("n_ctx", 2048, minimum=0, maximum=1_000_000)
ALPHA = option("alpha_value", 1.0, minimum=1, maximum=8)
NO_MMAP = option("no_mmap", False, "no-mmap")
MLOCK = option("mlock", False)
SPLIT = option("tensor_split", "", pattern=r"\d+(,\d+)*", example="30,70")
KIND = option("quant_type", "nf4", choices=("nf4", "fp4"))
BITS = option("wbits", 0, choices=(0, 2, 4))
MEMORY = option("gpu_memory", "", "gpu-memory", many=True)
GROUP = option("groupsize", -1)

FLAGS = FlagParser([CONTEXT, ALPHA, NO_MMAP, MLOCK, SPLIT, KIND, BITS, MEMORY, GROUP], "a test")


def parsed(line: str) -> dict[str, object]:
    return dict(FLAGS.parse(line.split()))


@pytest.mark.parametrize("raw", [4096, "4096", " 4096 ", 4096.0, "4096.0", "4.096e3"])
def test_a_whole_number_is_accepted_in_any_notation(raw: object) -> None:
    value = CONTEXT.parse(raw)
    assert value == 4096
    assert type(value) is int


NOT_WHOLE: list[object] = ["1.5", 1.5, "", "many", None, True, [4096], "nan", "inf", float("nan"), float("inf")]


def test_a_value_that_is_not_a_whole_number_is_rejected(subtests: pytest.Subtests) -> None:
    for raw in NOT_WHOLE:
        with subtests.test(raw=raw), pytest.raises(OptionError):
            CONTEXT.parse(raw)


def test_a_large_whole_number_keeps_its_last_digit() -> None:
    assert option("seed", 0).parse("9007199254740993") == 9007199254740993


def test_a_number_that_is_too_long_is_rejected() -> None:
    for raw in ("9" * 400, "9" * 5000, 10**400, "1e999"):
        with pytest.raises(OptionError):
            CONTEXT.parse(raw)


def test_both_ends_of_a_range_are_valid_and_values_beyond_are_not() -> None:
    assert [CONTEXT.parse(0), CONTEXT.parse(1_000_000)] == [0, 1_000_000]
    for raw in (-1, 1_000_001):
        with pytest.raises(OptionError, match="a whole number from 0 to 1000000"):
            CONTEXT.parse(raw)


def test_a_float_option_accepts_whole_numbers_and_returns_a_float() -> None:
    assert [ALPHA.parse(raw) for raw in (2, "2.5", "1e0")] == [2.0, 2.5, 1.0]
    assert type(ALPHA.parse(2)) is float


def test_neither_nan_nor_infinity_is_a_valid_number(subtests: pytest.Subtests) -> None:
    bounds: list[dict[str, float]] = [{}, {"minimum": 0}, {"minimum": 0, "maximum": 1}]
    for limits, raw in product(bounds, ("nan", "-nan", float("nan"), "inf", float("-inf"), "1e999")):
        with subtests.test(raw=raw, **limits), pytest.raises(OptionError):
            option("anything", 0.5, **limits).parse(raw)


@pytest.mark.parametrize("raw", [True, "true", "True", " YES ", "on", "1", 1])
def test_words_that_mean_true(raw: object) -> None:
    assert MLOCK.parse(raw) is True


@pytest.mark.parametrize("raw", [False, "false", "No", "OFF", "0", 0])
def test_words_that_mean_false(raw: object) -> None:
    assert MLOCK.parse(raw) is False


@pytest.mark.parametrize("raw", ["", "maybe", "2", 2, None, [True]])
def test_a_boolean_rejects_other_words(raw: object) -> None:
    with pytest.raises(OptionError, match="true or false"):
        MLOCK.parse(raw)


def test_a_text_is_stripped_and_none_becomes_empty() -> None:
    assert [SPLIT.parse(raw) for raw in (" 30,70 ", "", None, 30)] == ["30,70", "", "", "30"]


@pytest.mark.parametrize("raw", ["30;70", "30,", "30,70 and more", True, [30, 70]])
def test_a_pattern_must_match_the_whole_text(raw: object) -> None:
    with pytest.raises(OptionError, match="a text such as '30,70'"):
        SPLIT.parse(raw)


def test_only_listed_choices_are_valid_and_the_error_lists_them() -> None:
    assert KIND.parse("fp4") == "fp4"
    for raw in ("NF4", "int8", ""):
        with pytest.raises(OptionError, match="one of nf4, fp4"):
            KIND.parse(raw)


def test_numeric_choices_may_be_given_as_text() -> None:
    assert BITS.parse("4") == 4
    for raw in ("3", "None", True):
        with pytest.raises(OptionError):
            BITS.parse(raw)


def test_the_error_names_option_value_and_expected_values_in_both_languages() -> None:
    with pytest.raises(OptionError) as refused:
        CONTEXT.parse("lots")
    for language, expected in (("en", "a whole number from 0 to 1000000"), ("zh", "0 到 1000000 之间的整数")):
        message = refused.value.say(language)
        assert all(part in message for part in ("n_ctx", in_quotes("lots", language), expected))


def test_the_error_of_an_address_has_no_password() -> None:
    url = option("url", "", pattern="https?://[a-z.]+")
    for address, shown in (
        ("http://me:secret@host", "http://***@host"),
        ("http://me:sec/r@t@host", "http://***@host"),
        ("me:secret@host", "***@host"),
        ("me@host", "me@host"),
        ("nonsense", "nonsense"),
    ):
        with pytest.raises(OptionError) as raised:
            url.parse(address)
        assert raised.value.value == shown


def test_parse_all_parses_every_value_of_a_mapping() -> None:
    table = {option.key: option for option in (CONTEXT, MLOCK)}
    assert parse_all(table, {"n_ctx": "512", "mlock": "on"}) == {"n_ctx": 512, "mlock": True}


def test_an_unknown_key_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UnknownOption) as unknown:
        parse_all({"n_ctx": CONTEXT, "mlock": MLOCK}, {"n_ctxt": 1})
    assert (unknown.value.name, unknown.value.nearest) == ("n_ctxt", "n_ctx")


def test_the_nearest_name_ignores_case_and_dashes_and_may_be_empty() -> None:
    names = ("gpu-memory", "n_ctx")
    assert [nearest(name, names) for name in ("GPU_Memroy", "n-ctx", "zzz")] == ["gpu-memory", "n_ctx", ""]


def test_only_flags_on_the_command_line_are_returned() -> None:
    assert parsed("") == {}
    assert parsed("--n_ctx 4096") == {"n_ctx": 4096}


@pytest.mark.parametrize("word", ["--n_ctx=4096", "--n-ctx=4096", "--n-ctx 4096", "--n_ctx 4096"])
def test_dashes_equal_underscores_with_and_without_an_equals_sign(word: str) -> None:
    assert parsed(word) == {"n_ctx": 4096}


@pytest.mark.parametrize("word", ["--no-mmap", "--no_mmap", "--no-mmap=true", "--no_mmap on"])
def test_a_flag_without_a_value_means_true(word: str) -> None:
    assert parsed(word) == {"no_mmap": True}


def test_a_flag_can_be_false() -> None:
    assert parsed("--mlock=false --no-mmap=0") == {"mlock": False, "no_mmap": False}


def test_a_flag_without_a_value_does_not_consume_the_next_flag() -> None:
    assert parsed("--mlock --n_ctx 512") == {"mlock": True, "n_ctx": 512}


def test_several_values_of_a_flag_are_joined() -> None:
    assert parsed("--gpu-memory 10GiB 8000MiB --mlock") == {"gpu_memory": "10GiB 8000MiB", "mlock": True}
    assert parsed("--gpu_memory=10") == {"gpu_memory": "10"}


def test_a_negative_number_is_a_value_and_not_a_flag() -> None:
    assert parsed("--groupsize -1") == {"groupsize": -1}


def test_the_last_of_two_values_takes_precedence() -> None:
    assert parsed("--n_ctx 64 --n-ctx 128") == {"n_ctx": 128}


def test_underscores_in_a_value_are_kept() -> None:
    assert FlagParser([option("model", "")], "").parse(["--model", "a_b-c"]) == {"model": "a_b-c"}


@pytest.mark.parametrize(
    ("word", "nearest_flag"),
    [("--n_ctxt=1", "--n_ctx"), ("--no_mmp", "--no-mmap"), ("--gpu_memroy", "--gpu-memory"), ("--zzz", "")],
)
def test_an_unknown_flag_is_an_error_with_the_nearest_flag(word: str, nearest_flag: str) -> None:
    with pytest.raises(UnknownOption) as unknown:
        parsed(word)
    assert (unknown.value.name, unknown.value.nearest) == (word.split("=")[0], nearest_flag)


def test_abbreviated_flags_are_rejected() -> None:
    with pytest.raises(UnknownOption):
        parsed("--tensor 30,70")


def test_a_flag_without_its_value_raises_a_command_line_error() -> None:
    with pytest.raises(CommandLineError):
        parsed("--n_ctx")


@pytest.mark.parametrize(
    ("line", "en", "zh"),
    [
        ("--n-ctx", "--n_ctx needs a value.", "--n_ctx 缺少取值。"),
        ("--n_ctx --mlock", "--n_ctx needs a value.", "--n_ctx 缺少取值。"),
        ("--gpu-memory", "--gpu-memory needs at least one value.", "--gpu-memory 至少需要一个取值。"),
        ("--gpu_memory --mlock", "--gpu-memory needs at least one value.", "--gpu-memory 至少需要一个取值。"),
        ("--help=me", "-h/--help takes no value.", "-h/--help 不带取值。"),
        ("-hi", "-h/--help takes no value.", "-h/--help 不带取值。"),
    ],
)
def test_errors_of_argparse_are_translated(line: str, en: str, zh: str) -> None:
    with pytest.raises(CommandLineError) as refused:
        parsed(line)
    assert refused.value.say("en") == f"Command line: {en}"
    assert refused.value.say("zh") == f"命令行：{zh}"


def test_other_errors_of_argparse_are_shown_untranslated() -> None:
    with pytest.raises(CommandLineError) as refused:
        FLAGS.error("argument --n_ctx: something new")
    assert refused.value.say("zh") == "命令行：argument --n_ctx: something new"


def test_a_flag_with_an_invalid_value_names_its_option() -> None:
    with pytest.raises(OptionError, match="wbits"):
        parsed("--wbits 5")


def test_the_help_may_contain_percent_signs() -> None:
    words = {"en": "100% of it", "zh": "全部 100%"}
    text = FlagParser([Option("share", "share", 0.5, words, words)], "").format_help()
    assert "100% of it" in text
    assert "全部 100%" in text
