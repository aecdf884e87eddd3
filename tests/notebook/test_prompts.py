"""What the model is given: its own tokens as they were, gaps with what surrounds them, the end of long texts."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.core.events import Json
from modules.core.fill_in_middle import FimTokens
from modules.loaders import generation_settings
from modules.loaders.registry import LOADERS
from modules.notebook.notebook import Beginning, Notebook, State, continued, picked
from modules.notebook.prompts import fit_of, next_tokens, prompt_of
from modules.notebook.runs import NotebookRuns
from modules.notebook.store import NotebookStore
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from tests.support.echo_plans import wait_until
from tests.support.notebook_model import tiny_plan

STORY = "Once upon a time there was a 猫 who"
GREEDY: dict[str, Json] = generation_settings.resolve(
    {"max_new_tokens": 12, "temperature": 0, "ban_eos_token": True, "truncation_length": 256}
)


@pytest.fixture(scope="module", params=("llama.cpp", "Transformers"))
def model(request: pytest.FixtureRequest, tiny: Path, tiny_folder: Path) -> Iterator[LoadedModel]:
    """The tiny model, with the tokenizer of the demo model."""
    manager = ModelManager()
    path = tiny_folder if request.param == "Transformers" else tiny
    yield manager.load(tiny_plan(path, LOADERS[request.param]))
    manager.unload()


@pytest.fixture
def store(tmp_path: Path) -> NotebookStore:
    return NotebookStore(tmp_path / "notebook")


def write(store: NotebookStore, model: LoadedModel, begin: object, params: dict[str, Json] = GREEDY) -> Notebook:
    """Let the model write into the text "x", and return it."""
    runs = NotebookRuns()
    runs.start(store, "x", None, begin, model, params)
    wait_until(lambda: not runs.running(store), 20)
    assert runs.last(store, "x").error is None
    return store.read("x")


def at_end(state: State) -> Beginning:
    return continued(state, len(state.text))


def ids_of(model: LoadedModel, text: str) -> tuple[int, ...]:
    return tuple(model.ask("encode", text=text))


def test_the_tokens_of_a_text_say_the_same_as_it(model: LoadedModel, store: NotebookStore) -> None:
    params = {**GREEDY, "temperature": 5.0, "seed": 3, "max_new_tokens": 60}  # with parts of characters
    store.create(STORY, "x")
    (passage,) = write(store, model, at_end, params).state.passages
    text = store.read("x").text
    assert text == STORY + "".join(token.text for token in passage.tokens) and passage.end == len(text)
    assert len(passage.tokens) == 60 and {len(token.candidates) for token in passage.tokens} == {10}


def test_going_on_from_a_candidate_is_the_same_as_a_new_prompt_with_it(
    model: LoadedModel, store: NotebookStore
) -> None:
    store.create(STORY, "x")
    (passage,) = write(store, model, at_end).state.passages
    second = next(one for one in passage.tokens[4].candidates[1:] if "\ufffd" not in one.text)
    found = write(store, model, lambda state: picked(state, passage.start, 4, second.id))
    (now,) = found.state.passages
    ids = [*ids_of(model, STORY), *(token.id for token in passage.tokens[:4]), second.id]
    assert [token.id for token in now.tokens[:5]] == ids[-5:]
    fresh = prompt_of(model, Beginning("", "", dataclasses.replace(now, start=0, tokens=())), GREEDY)
    fresh = dataclasses.replace(fresh, tokens=tuple(ids))
    events = list(model.generate(fresh, {**GREEDY, "top_logprobs": 0}))
    chosen = [one.chosen for event in events for one in getattr(event, "logprobs", ())]
    assert [token.id for token in now.tokens[5:]] == [one.id for one in chosen]
    assert [token.logprob for token in now.tokens[5:]] == pytest.approx([one.logprob for one in chosen], abs=1e-4)


def test_generating_twice_is_the_same_as_generating_more_at_once(model: LoadedModel, store: NotebookStore) -> None:
    store.create(STORY, "x")
    write(store, model, at_end)
    (twice,) = write(store, model, at_end).state.passages
    store.change("x", None, lambda notebook: notebook.undone().undone())
    (once,) = write(store, model, at_end, {**GREEDY, "max_new_tokens": 24}).state.passages
    assert [token.id for token in twice.tokens] == [token.id for token in once.tokens]


def test_the_candidates_for_the_next_token_are_those_that_are_stored_with_it(
    model: LoadedModel, store: NotebookStore
) -> None:
    store.create(STORY, "x")
    (passage,) = write(store, model, at_end).state.passages
    state = store.read("x").state
    for number in (0, 5):
        plain = next_tokens(model, continued(state, passage.position(number)), GREEDY)["plain"][:10]
        stored = passage.tokens[number].candidates
        assert [one[0] for one in plain] == [one.id for one in stored]
        assert [one[2] for one in plain] == pytest.approx([one.logprob for one in stored], abs=1e-4)


def test_a_gap_is_filled_with_what_surrounds_it(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    gap = continued(State("def f():\n    return 1"), 9, fills=True)
    assert prompt_of(model, gap, GREEDY).tokens == (), "without such tokens, the text goes on from before the gap"
    monkeypatch.setattr(model, "info", dataclasses.replace(model.info, fim=FimTokens(5, 6, 7)))
    before, after = ids_of(model, "def f():\n"), ids_of(model, "    return 1")
    assert prompt_of(model, gap, GREEDY).tokens == (5, *before, 6, *after, 7)
    long = continued(State("one two three " * 300 + "|" + " four five six" * 300), 14 * 300, fills=True)
    prompt = prompt_of(model, long, GREEDY)
    assert len(prompt.tokens) == prompt.limit
    at = prompt.tokens.index(6)
    assert 0.2 < (len(prompt.tokens) - at) / len(prompt.tokens) < 0.3, "a quarter is for what follows"
    fit = fit_of(model, long, GREEDY)
    assert fit["fills"] and fit["tokens"] > 1000
    assert ids_of(model, long.before[fit["begins"] :])[-20:] == prompt.tokens[at - 20 : at]


def test_of_a_long_text_the_model_gets_the_end_and_the_page_knows_where_that_begins(model: LoadedModel) -> None:
    short = fit_of(model, at_end(State(STORY)), GREEDY)
    assert (short["begins"], short["fills"]) == (0, False) and short["tokens"] == len(ids_of(model, STORY))
    text = "".join(f"Line {number} of a long text.\n" for number in range(200))
    fit = fit_of(model, at_end(State(text)), GREEDY)
    assert fit["tokens"] == len(ids_of(model, text)) and fit["limit"] == 256 - 12
    kept = len(ids_of(model, text[fit["begins"] :]))
    assert abs(kept - fit["limit"]) <= 2
