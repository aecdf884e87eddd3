"""Errors shown to users: messages in both languages, fields, HTTP status, and transfer between processes."""

from __future__ import annotations

import dataclasses
import json
import re
import string
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, get_type_hints

import pytest

from modules.catalog.errors import DeletionError
from modules.characters.errors import CharacterError
from modules.conversations.errors import ConversationError
from modules.core import errors, lora_errors, worker_errors
from modules.core.errors import (
    CodeChanged,
    LoaderUnavailable,
    ModelNotFound,
    OptionError,
    UnknownOption,
    WebUIError,
    Words,
)
from modules.core.paths import ROOT
from modules.core.training_errors import TrainingError
from modules.downloads.errors import DownloadNotFound
from modules.evaluation.errors import EvaluationError
from modules.hub.errors import DownloadError
from modules.notebook.errors import NotebookError
from modules.training.dataset.errors import DatasetError


def error_classes(root: type[WebUIError] = WebUIError) -> Iterator[type[WebUIError]]:
    """Yield every error class of the program, without those that tests define."""
    for error_class in root.__subclasses__():
        if error_class.__module__.startswith("modules."):
            yield error_class
            yield from error_classes(error_class)


def example(error_class: type[WebUIError]) -> WebUIError:
    samples: dict[Any, object] = {
        str: "a {text}",
        int: 7,
        float: 7.5,
        object: "a value",
        Words: {"en": "why", "zh": "原因"},
        str | Words: {"en": "why", "zh": "原因"},
        Sequence[str]: ["one", "two"],
        Sequence[tuple[str, int]]: [["one", 7]],
        Sequence[tuple[int, Words]]: [[1, {"en": "why", "zh": "原因"}]],
    }
    hints = get_type_hints(error_class)
    fields = {field.name: samples[hints[field.name]] for field in dataclasses.fields(error_class)}
    return error_class(**fields | (CODE if error_class is CodeChanged else {}))


CODE = {"changes": {"a.py": "changed", "b.py": "added"}, "code": {"a.py": "0" * 64, "b.py": "1" * 64}}


ALL = list(error_classes())
WITH_MESSAGE = [error_class for error_class in ALL if error_class.template["en"]]


def placeholders(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name}


def test_the_tables_contain_the_errors_of_every_module() -> None:
    """The tests below loop over these tables."""
    assert {worker_errors.LoadFailed, DownloadError, DownloadNotFound, lora_errors.LoraError} <= set(ALL)
    assert len(WITH_MESSAGE) > len(ALL) / 2


def test_every_error_has_a_message_in_every_language(subtests: pytest.Subtests) -> None:
    for error_class, language in product(WITH_MESSAGE, ("en", "zh")):
        with subtests.test(error=error_class.__name__, language=language):
            message = example(error_class).say(language)
            assert len(message) > 1
            assert bool(re.search("[一-鿿]", message)) is (language == "zh")


def test_a_message_uses_only_fields_of_its_error(subtests: pytest.Subtests) -> None:
    for error_class in WITH_MESSAGE:
        with subtests.test(error=error_class.__name__):
            fields = {field.name for field in dataclasses.fields(error_class)} | set(example(error_class).shown("en"))
            for template in (*error_class.template.values(), *(error_class.template_elsewhere or {}).values()):
                assert placeholders(template) <= fields


def test_messages_in_both_languages_use_the_same_fields(subtests: pytest.Subtests) -> None:
    for error_class in WITH_MESSAGE:
        with subtests.test(error=error_class.__name__):
            assert placeholders(error_class.template["en"]) == placeholders(error_class.template["zh"])


def test_clients_of_the_api_and_the_terminal_are_not_sent_to_the_page(subtests: pytest.Subtests) -> None:
    for error_class, (language, words) in product(WITH_MESSAGE, (("en", "Model page"), ("zh", "”页"))):
        with subtests.test(error=error_class.__name__, language=language):
            assert words not in example(error_class).say_elsewhere(language)


def test_an_error_survives_serialization_to_json(subtests: pytest.Subtests) -> None:
    for error_class in ALL:
        with subtests.test(error=error_class.__name__):
            error = example(error_class)
            restored = WebUIError.from_json(json.loads(json.dumps(error.to_json())))
            assert type(restored) is error_class
            assert vars(restored) == vars(error)
            assert restored.say("zh") == error.say("zh")


def test_every_status_is_an_http_error_status(subtests: pytest.Subtests) -> None:
    for error_class in ALL:
        with subtests.test(error=error_class.__name__):
            assert 400 <= error_class.status < 600


ELSEWHERE = (
    CharacterError,
    ConversationError,
    DatasetError,
    DeletionError,
    DownloadError,
    EvaluationError,
    NotebookError,
    TrainingError,
    lora_errors.LoraError,
)


def test_the_docstring_of_the_module_names_every_error(subtests: pytest.Subtests) -> None:
    for error_class in ALL:
        with subtests.test(error=error_class.__name__):
            documented_elsewhere = issubclass(error_class, ELSEWHERE)
            assert (
                documented_elsewhere
                or error_class.__name__ in (errors.__doc__ or "")
                or error_class is errors.UnknownName
            )


def test_an_unknown_error_class_is_refused() -> None:
    with pytest.raises(KeyError):
        WebUIError.from_json({"error": "Nonsense", "facts": {}})


def test_braces_in_a_value_are_not_formatted() -> None:
    assert "{0} {name}" in worker_errors.LoadFailed("llama.cpp", "model", "{0} {name}").say("en")


def test_the_nearest_name_is_suggested_only_if_there_is_one() -> None:
    assert ModelNotFound("a.guf", "a.gguf").say("en") == "There is no model 'a.guf'. Did you mean 'a.gguf'?"
    assert UnknownOption("zzz").say("zh") == "没有名为“zzz”的选项。"


def test_a_reason_is_given_in_the_requested_language() -> None:
    error = LoaderUnavailable("AutoAWQ", {"en": "not installed", "zh": "未安装"})
    assert "not installed" in error.say("en")
    assert "未安装" in error.say("zh")


def test_an_invalid_value_is_quoted_as_typed() -> None:
    assert "'abc'" in OptionError("n_ctx", "abc", {"en": "a number", "zh": "数字"}).say("en")


def test_errors_are_defined_outside_the_page_whose_modules_import_gradio() -> None:
    assert not list((ROOT / "modules" / "ui").rglob("*errors.py"))
