"""The panel that shows the effect of the samplers says why there is nothing to show, and which tokens were cut."""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace
from typing import Any

import pytest

from modules.chat.run import ReplyRequest
from modules.conversations.conversation import Conversation
from modules.loaders import generation_settings
from modules.ui.gradio_import import gradio
from modules.ui.parameters.effect import SHOWN, position, rows_of, split_words
from tests.conftest import ECHO
from tests.support import echo_plans
from tests.ui.parameters.conftest import MakeTab, shown_values

gr = gradio()

REQUEST = SimpleNamespace(request=SimpleNamespace(scope={"headers": []}))


def answer(tab: Any, sent: object, **changes: object) -> Any:
    values = shown_values(tab, **changes)
    return json.loads(tab.effects.ask(values, gr.EventData(None, sent), REQUEST)[tab.effects.bridge])


def test_each_thing_that_is_missing_is_told_in_one_sentence(make_tab: MakeTab) -> None:
    tab = make_tab()
    assert answer(tab, {"n": 4, "conversation": ""}) == {"n": 4, "note": "Load a model to see this."}
    echo_plans.load(tab.app.models, loader=dataclasses.replace(ECHO, abilities=frozenset()))
    assert answer(tab, {"conversation": ""})["note"] == "echo cannot give the probabilities of tokens."
    echo_plans.load(tab.app.models)
    conversation = Conversation("")
    conversation.add("user", "Hi")
    question = tab.app.conversations.add(conversation)
    conversation.add("assistant", "Hello")
    imported = tab.app.conversations.add(conversation)
    for sent in (None, {}, {"conversation": 5}, {"conversation": question.id}):
        assert answer(tab, sent)["note"] == "The open conversation has no reply yet."
    assert answer(tab, {"conversation": imported.id})["note"].startswith("How the last reply was made was not recorded")
    assert "note" in answer(tab, {"conversation": "unknown"})
    sha256 = tab.app.conversations.blobs.put(b"Hi")
    conversation.add("assistant", "Hello", receipt={"prompt_sha256": sha256})
    replied = {"conversation": tab.app.conversations.add(conversation).id}
    assert answer(tab, replied, top_k=-1)["note"] == "Correct the marked values first."
    assert "cannot list the candidates" in answer(tab, replied)["note"]  # the test engine's own words


def test_while_a_model_answers_there_is_nothing_to_look_at(make_tab: MakeTab) -> None:
    tab = make_tab()
    echo_plans.load(tab.app.models)
    request = ReplyRequest("send", generation_settings.resolve({"max_new_tokens": 10}), text="slow count 200")
    run = tab.app.runs.start(tab.app.conversations, "", request, tab.app.models.current)
    assert answer(tab, {"conversation": run.conversation})["note"] == tab.effects._page.tr("effect_busy")
    tab.app.runs.close()


def test_a_position_is_within_the_reply() -> None:
    sent: list[Any] = [-3, 0, 2, 7, 99, "x", True, None, 1.5]
    assert [position(one, 7) for one in sent] == [0, 0, 2, 7, 7, 0, 0, 0, 0]


def test_words_keep_the_blanks_before_them_and_together_are_the_text(subtests: pytest.Subtests) -> None:
    assert split_words(" It's a\n\n test.  ") == [" It's", " a", "\n\n test.", "  "]
    assert split_words("你好, world 再见") == ["你", "好", ",", " world", " 再", "见"]
    for text in ("", "   ", "한국어 텍스트", "a\tb\nカタカナ", "🎲 dice"):
        with subtests.test(text=text):
            assert "".join(split_words(text)) == text


def test_the_likeliest_tokens_before_and_after_are_shown_once_each() -> None:
    plain = [[1, " the", math.log(0.5)], [2, " th", math.log(0.3)], [3, "x", math.log(0.1)], [4, "", math.log(0.05)]]
    sampled = [[1, " the", 0.7], [3, "x", 0.2], [5, "new", 0.1]]
    rows = rows_of(plain, sampled, " their")
    assert [(row["id"], row["before"], row["after"], row["said"]) for row in rows] == [
        (1, 0.5, 0.7, True),
        (2, 0.3, 0.0, False),
        (3, 0.1, 0.2, False),
        (5, 0.0, 0.1, False),
        (4, 0.05, 0.0, False),
    ]
    many = [[token, str(token), math.log(1 / 50)] for token in range(50)]
    assert len(rows_of(many, [], "")) == SHOWN
