"""A prompt is tokenized only while its answer is wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from modules.core.events import Info, Json
from modules.core.prompt import Prompt, Replacement
from modules.engines.engine_protocol import BatchingEngine
from modules.engines.request_prompt import tokenized
from modules.system.cancellation import Cancelled, CancelToken


@dataclass
class Tokenizer:
    """A token for each word. The request is cancelled while the text of that number is tokenized."""

    token: CancelToken
    cancelled_in: int
    texts: list[str] = field(default_factory=list)
    prepared_grammars: int = 0
    info: Info = field(default_factory=lambda: Info(context_length=4, vocabulary_size=8))

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        self.texts.append(text)
        if len(self.texts) == self.cancelled_in:
            self.token.cancel()
        return [1] * len(text.split())

    def prepare_grammars(self) -> None:
        self.prepared_grammars += 1


@pytest.mark.parametrize(("cancelled_in", "texts"), [(0, ["a b c d e f", "a f"]), (1, ["a b c d e f"])])
def test_no_shorter_text_is_tried_once_the_request_was_cancelled(cancelled_in: int, texts: list[str]) -> None:
    token = CancelToken()
    engine = Tokenizer(token, cancelled_in)
    whole = "a b c d e f"
    prompt = Prompt(whole, 4, shorter=(Replacement.between(whole, "a f"),)).to_json()

    def run() -> Any:
        return token.run(tokenized, cast(BatchingEngine, engine), prompt, {})

    if cancelled_in:
        with pytest.raises(Cancelled):
            run()
    else:
        assert run()["prompt"] == [1, 1]
    assert engine.texts == texts


def test_grammars_are_prepared_where_prompts_are_tokenized_if_the_answer_has_one() -> None:
    engine = Tokenizer(CancelToken(), 0)
    for params in ({"grammar_string": "", "answer_grammar": None}, {"grammar_string": 'root ::= "x"'}):
        tokenized(cast(BatchingEngine, engine), "a", params)
    tokenized(cast(BatchingEngine, engine), "a", {"answer_grammar": ["json", {}]})
    assert engine.prepared_grammars == 2
