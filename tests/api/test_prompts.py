"""Prompts of completions, what `echo` returns of them, and which conversations are short and plain."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from modules.api.prompts import FEW_MESSAGES, SHORT_TEXT, echoed_prompts, plain_messages, plain_prompts
from modules.api.schemas import ChatRequest, CompletionRequest
from modules.core.errors import OptionError, Unsupported
from modules.core.prompt import Prompt
from modules.loaders import generation_settings
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from tests.support.say import say_plan


@pytest.fixture(scope="module")
def model() -> Iterator[LoadedModel]:
    """A model whose tokens are characters."""
    manager = ModelManager()
    yield manager.load(say_plan())
    manager.unload()


def prompts_of(model: LoadedModel, **fields: Any) -> list[Prompt]:
    return plain_prompts(model, CompletionRequest.model_validate(fields), generation_settings.resolve({}))


def test_prompts_may_be_texts_or_tokens(model: LoadedModel) -> None:
    for prompt, texts in (("a", ["a"]), (["a", "b"], ["a", "b"]), ([104, 105], ["hi"]), ([[104], [105]], ["h", "i"])):
        assert [one.text for one in prompts_of(model, prompt=prompt)] == texts
    with pytest.raises(OptionError, match="at least one prompt"):
        prompts_of(model, prompt=[])


def test_the_echo_of_a_prompt_is_what_the_model_gets_of_it(model: LoadedModel) -> None:
    prompts = [Prompt("Hello"), Prompt("Hello", 5, truncate=True), Prompt("Hello", 4, truncate=True)]
    assert echoed_prompts(model, prompts) == ["Hello", "Hello", "ello"]


def test_an_echo_goes_neither_with_log_probabilities_nor_with_a_suffix(model: LoadedModel) -> None:
    for fields, name in (({"logprobs": 0}, "logprobs"), ({"suffix": "end"}, "suffix")):
        with pytest.raises(Unsupported, match=f"echo together with {name} is not supported"):
            prompts_of(model, prompt="Hello", echo=True, **fields)


def test_a_short_conversation_of_texts_is_plain_and_any_other_one_is_not(subtests: pytest.Subtests) -> None:
    question = {"role": "user", "content": "hi"}
    answer = {"role": "assistant", "content": "hello", "reasoning_content": "a greeting"}

    def plain(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]] | None:
        return plain_messages(ChatRequest.model_validate({"messages": [*messages, question], **fields}))

    assert plain(question, answer) == [question, answer, question]
    call = {"function": {"name": "look", "arguments": "{}"}}
    tool = {"type": "function", "function": {"name": "look"}}
    others: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
        "many messages": ([question] * FEW_MESSAGES, {}),
        "long texts": ([{"role": "user", "content": "x" * SHORT_TEXT}], {}),
        "parts": ([{"role": "user", "content": [{"type": "text", "text": "hi"}]}], {}),
        "a call": ([{"role": "assistant", "tool_calls": [call]}], {}),
        "the result of a call": ([{"role": "tool", "content": "1"}], {}),
        "tools": ([], {"tools": [tool]}),
        "a text to continue": ([], {"continue_": True}),
        "variables of the template": ([], {"enable_thinking": False}),
    }
    for name, (messages, fields) in others.items():
        with subtests.test(name):
            assert plain(*messages, **fields) is None
