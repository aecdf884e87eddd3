"""Every error shown to people: both languages, its facts, its status, and its transfer between processes."""

from __future__ import annotations

import dataclasses
import json
import re
import string
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, get_type_hints

import pytest

from modules.core import errors, lora_errors
from modules.core.errors import (
    CodeChanged,
    LoaderUnavailable,
    ModelNotFound,
    OptionError,
    UnknownOption,
    WebUIError,
    Words,
    WorkerDied,
)
from modules.downloads.errors import DownloadNotFound
from modules.hub.errors import DownloadError


def kinds(root: type[WebUIError] = WebUIError) -> Iterator[type[WebUIError]]:
    """Yield every error class of the program itself; tests may define more."""
    for kind in root.__subclasses__():
        if kind.__module__.startswith("modules."):
            yield kind
            yield from kinds(kind)


def example(kind: type[WebUIError]) -> WebUIError:
    samples: dict[Any, object] = {
        str: "a {text}",
        int: 7,
        float: 7.5,
        object: "a value",
        Words: {"en": "why", "zh": "原因"},
        str | Words: {"en": "why", "zh": "原因"},
        Sequence[str]: ["one", "two"],
    }
    hints = get_type_hints(kind)
    facts = {field.name: samples[hints[field.name]] for field in dataclasses.fields(kind)}
    return kind(**facts | (CODE if kind is CodeChanged else {}))


CODE = {"changes": {"a.py": "changed", "b.py": "added"}, "code": {"a.py": "0" * 64, "b.py": "1" * 64}}


ALL = list(kinds())
SHOWN = [kind for kind in ALL if kind.template["en"]]


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_the_tables_hold_the_errors_of_every_module() -> None:
    """Everything below loops over these tables."""
    assert {errors.LoadFailed, DownloadError, DownloadNotFound, lora_errors.LoraError} <= set(ALL)
    assert len(SHOWN) > len(ALL) / 2


def test_every_error_has_a_message_in_every_language(subtests: pytest.Subtests) -> None:
    for kind, language in product(SHOWN, ("en", "zh")):
        with subtests.test(error=kind.__name__, language=language):
            message = example(kind).say(language)
            assert len(message) > 1
            assert bool(re.search("[一-鿿]", message)) is (language == "zh")


def test_a_message_uses_only_facts_of_its_error(subtests: pytest.Subtests) -> None:
    for kind in SHOWN:
        with subtests.test(error=kind.__name__):
            facts = {field.name for field in dataclasses.fields(kind)} | set(example(kind).shown("en"))
            for template in kind.template.values():
                assert placeholders(template) <= facts


def test_both_languages_name_the_same_facts(subtests: pytest.Subtests) -> None:
    for kind in SHOWN:
        with subtests.test(error=kind.__name__):
            assert placeholders(kind.template["en"]) == placeholders(kind.template["zh"])


def test_an_error_is_unchanged_after_its_way_through_json(subtests: pytest.Subtests) -> None:
    for kind in ALL:
        with subtests.test(error=kind.__name__):
            error = example(kind)
            back = WebUIError.from_json(json.loads(json.dumps(error.to_json())))
            assert type(back) is kind
            assert vars(back) == vars(error)
            assert back.say("zh") == error.say("zh")


def test_every_status_is_one_of_an_http_error(subtests: pytest.Subtests) -> None:
    for kind in ALL:
        with subtests.test(error=kind.__name__):
            assert 400 <= kind.status < 600


def test_the_docstring_of_the_module_names_every_error(subtests: pytest.Subtests) -> None:
    for kind in ALL:
        with subtests.test(error=kind.__name__):
            elsewhere = issubclass(kind, (DownloadError, lora_errors.LoraError))
            assert elsewhere or kind.__name__ in (errors.__doc__ or "") or kind is errors.UnknownName


def test_an_error_that_this_program_does_not_have_is_refused() -> None:
    with pytest.raises(KeyError):
        WebUIError.from_json({"error": "Nonsense", "facts": {}})


def test_braces_in_a_fact_are_only_text() -> None:
    assert "{0} {name}" in errors.LoadFailed("llama.cpp", "model", "{0} {name}").say("en")


def test_the_nearest_name_is_offered_only_if_there_is_one() -> None:
    assert ModelNotFound("a.guf", "a.gguf").say("en") == "There is no model 'a.guf'. Did you mean 'a.gguf'?"
    assert UnknownOption("zzz").say("zh") == "没有名为 'zzz' 的选项。"


def test_a_reason_is_told_in_the_language_asked_for() -> None:
    error = LoaderUnavailable("AutoAWQ", {"en": "not installed", "zh": "未安装"})
    assert "not installed" in error.say("en")
    assert "未安装" in error.say("zh")


def test_an_unacceptable_value_is_shown_as_it_was_typed() -> None:
    assert "'abc'" in OptionError("n_ctx", "abc", {"en": "a number", "zh": "数字"}).say("en")


@pytest.mark.parametrize(
    ("code", "how"), [(-11, "SIGSEGV"), (-9, "SIGKILL"), (-6, "SIGABRT"), (1, "exit status 1"), (-200, "signal 200")]
)
def test_a_death_is_told_by_the_name_of_its_signal(code: int, how: str) -> None:
    idle = {"en": "idle", "zh": "空闲"}
    assert f"({how})" in WorkerDied(code, idle).say("en")
    assert f"（{how}）" in WorkerDied(code, idle).say("zh")


def test_last_words_are_quoted_only_if_there_were_any() -> None:
    idle = {"en": "idle", "zh": "空闲"}
    assert WorkerDied(1, idle, "out of memory").say("en").endswith("Its last output: out of memory")
    assert "last output" not in WorkerDied(1, idle).say("en")
