"""Batches that llama.cpp refuses or that end early: what the engine answers, and what others notice of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from modules.core.paths import ROOT

Facts = dict[str, Any]


@pytest.fixture(scope="module")
def facts(tiny: Path) -> Facts:
    command = [sys.executable, "-m", "tests.support.decode_faults", str(tiny)]
    ended = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found: Facts = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_an_interrupted_batch_changes_no_answer_however_much_of_it_was_evaluated(facts: Facts) -> None:
    (text,) = facts["one"]
    assert len(text) > 40 and facts["both"][0] == text != facts["both"][1]
    assert facts["interrupted"] == facts["late"] == [text]
    assert facts["both, late"] == facts["both"]
    assert facts["repeated"][0].startswith("One two three four. One two")
    assert facts["drafts"] == facts["drafts, late"] == facts["repeated"], "drafts of it may be evaluated as well"
    assert facts["agrees"] == [True] * 4, "the slots hold what the KV cache does"


def test_a_refused_batch_fails_what_runs_and_nothing_that_comes_later(facts: Facts) -> None:
    assert [error.endswith("llama_decode failed with status -3") for error in facts["refused"]] == [True, True]
    assert facts["after a refusal"] == facts["both"]


def test_without_room_the_request_that_began_last_waits_and_one_alone_fails(facts: Facts) -> None:
    assert facts["full, and another runs"] == facts["both"]
    assert facts["full"][0].endswith("(no room in the KV cache)")


def test_cells_that_are_to_be_shifted_are_copied_and_saved_as_they_will_be(facts: Facts) -> None:
    for unified in ("on", "off"):
        alone, copied, saved = facts[f"shifted, {unified}"]
        assert (copied, saved) == (alone * 2, alone), unified


def test_scores_are_the_same_after_an_interruption_and_beside_an_answer_that_takes_their_cells(facts: Facts) -> None:
    scores, text = facts["scores"], facts["both"][1]
    assert len(scores) > 50 and facts["scores, interrupted"] == pytest.approx(scores, abs=0.01)
    for name in ("scores, beside", "scores, full beside", "scores, full for the answer"):
        assert facts[name][0] == pytest.approx(scores, abs=0.01), name
        assert facts[name][1] == text, name
    for name, status in (("scores, refused", -3), ("scores, full", 1)):
        assert facts[name].endswith(f"llama_decode failed with status {status}"), name
