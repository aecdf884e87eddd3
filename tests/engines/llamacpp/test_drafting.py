"""Draft tokens: when they are evaluated, and that answers are those without them."""

from __future__ import annotations

import dataclasses
import json
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from modules.core.events import Text
from modules.engines.llamacpp.acceptance import AcceptanceRates
from modules.engines.llamacpp.drafting import DraftPlanner
from modules.engines.llamacpp.lookup_drafter import ASSUMED_RATES, MATCH_LENGTHS, LookupDrafter
from modules.engines.llamacpp.scheduler import Request
from modules.engines.token_ids import common_prefix_length
from modules.runtime.worker_process import WorkerProcess
from tests.conftest import load
from tests.support.answers import Crowd, answer, forget
from tests.support.draft_probe import DraftedAnswer, Question, drafted_answers
from tests.support.hf_folder import read_metadata
from tests.support.llama_requests import OPTIONS, TOPICS, chat
from tests.support.tiny_model import tiny_gguf_bytes

COPIED = list(range(100, 140))
CHEAP, DEAR = 0.05, 1.0
FEW_TOKENS = {str(token): 40 for token in range(1000, 1006)}
"""A bias that leaves six tokens, so that any three of them have soon occurred before."""
LOOKUP: dict[str, Any] = {"prompt_lookup_num_tokens": 6}


def request(text: Sequence[int], max_new_tokens: int = 0, lookup: int = 8) -> Request:
    """Return a request that decodes, without its sampler and its text."""
    tokens = array("i", text)
    made = Request(1, tokens, {"max_new_tokens": max_new_tokens}, None, None, len(tokens), 0.0)  # type: ignore[arg-type]
    made.evaluated = len(tokens) - 1
    made.lookup_drafter = LookupDrafter(tokens, lookup) if lookup else None
    return made


def planner(share: float, capacity: int = 64, n_ctx: int = 1024) -> DraftPlanner:
    """Return a planner that has measured batches of which every further token costs `share` of the first."""
    made = DraftPlanner(capacity, n_ctx)
    for _ in range(5):
        for size in range(1, 17):
            made.costs.record(size, 0.01 * (1 + share * (size - 1)))
    return made


def draft_lengths(planner: DraftPlanner, *requests: Request) -> list[int]:
    planner.plan(requests)
    return [len(request.draft) for request in requests]


def test_likely_drafts_are_evaluated_where_a_batch_costs_little_more() -> None:
    copying = request([*COPIED, *COPIED[:20]])
    planner(CHEAP).plan([copying])
    assert copying.draft.tolist() == COPIED[20:28]
    assert draft_lengths(planner(DEAR), copying) == [0]


def test_unlikely_drafts_are_not_evaluated() -> None:
    assert draft_lengths(planner(0.3), request([1, 2, 3, 4, 1])) == [0]
    assert draft_lengths(planner(0.3), request([1, 2, 3, 4])) == [0]


def test_drafts_that_would_have_been_wrong_are_soon_given_up_without_having_been_evaluated() -> None:
    text = [token for number in range(40) for token in (1, 2, 3, 100 + number)]
    wrong = request([*text, 1, 2, 3])
    assert wrong.lookup_drafter is not None
    drafting = planner(0.3)
    assert draft_lengths(drafting, wrong) == [1]
    for number in range(20):
        wrong.tokens.extend([200 + number, 1, 2, 3])
        wrong.evaluated = len(wrong.tokens) - 1
    assert draft_lengths(drafting, wrong) == [0]


def test_a_draft_ends_where_the_answer_or_the_context_does() -> None:
    text = [*COPIED, *COPIED[:20]]
    assert draft_lengths(planner(CHEAP), request(text, max_new_tokens=4)) == [3]
    assert draft_lengths(planner(CHEAP, n_ctx=62), request(text)) == [2]
    assert draft_lengths(planner(CHEAP, n_ctx=60), request(text)) == [0]
    assert draft_lengths(planner(CHEAP, capacity=6), request(text)) == [5]


def test_a_draft_beside_other_answers_must_make_up_for_what_they_lose() -> None:
    likely, other = request([*COPIED, *COPIED[:8]], lookup=2), [request([7], lookup=0) for _ in range(6)]
    share = 0.55
    assert draft_lengths(planner(share), likely)[0] > 0
    drafting = DraftPlanner(64, 1024)
    for size in range(1, 17):  # the more answers, the less a batch has to spare
        for _ in range(15):
            drafting.costs.record(size, 0.01 * (size if size > 6 else 1 + share * (size - 1)))
    assert draft_lengths(drafting, likely, *other) == [0] * 7


def test_no_draft_shares_a_batch_with_a_part_of_a_prompt_or_follows_one_without_room() -> None:
    copying, reading = request([*COPIED, *COPIED[:20]]), request([1, 2, 3, 4], lookup=0)
    reading.evaluated = 0
    drafting = planner(CHEAP)
    assert draft_lengths(drafting, copying, reading) == [0, 0]
    assert draft_lengths(drafting, copying) == [8]
    assert drafting.suspend([copying])
    assert draft_lengths(drafting, copying) == [0]
    assert not drafting.suspend([copying])
    assert draft_lengths(drafting, copying) == [8]


def test_rates_follow_the_answer_and_long_matches_are_trusted_more() -> None:
    rates = AcceptanceRates(MATCH_LENGTHS, ASSUMED_RATES)
    assert [rates.rate(length) for length in (1, 2, 4, 30)] == sorted(rates.rate(length) for length in (1, 2, 4, 30))
    before = rates.rate(2), rates.rate(12)
    for _ in range(10):
        rates.record(2, False)
    assert rates.rate(2) < before[0] / 2
    assert rates.rate(12) < before[1]


# -- answers of a model ------------------------------------------------------------------------------------------------

SENTENCE = "The sun again, and the sea again. "
GRAMMAR = f"root ::= ({json.dumps(SENTENCE)})+"
PLAIN: dict[str, Any] = {"max_new_tokens": 40, "top_logprobs": 0, "logit_bias": FEW_TOKENS}
SAMPLED = [{**PLAIN, "temperature": 1, "seed": seed} for seed in range(5)]
PENALIZED = {
    **PLAIN,
    "temperature": 0.7,
    "seed": 3,
    "repetition_penalty": 1.3,
    "dry_multiplier": 0.8,
    "mirostat_mode": 2,
}
ENDS: dict[str, dict[str, Any]] = {
    "grammar": {"max_new_tokens": 40, "grammar_string": GRAMMAR},
    "limit": {"max_new_tokens": 13, "grammar_string": GRAMMAR},
    "stop": {"max_new_tokens": 200, "grammar_string": GRAMMAR, "stops": ("sea again. The",)},
    "end": {"max_new_tokens": 200, "grammar_string": f"root ::= {json.dumps(SENTENCE * 6)}"},
    "context": {"max_new_tokens": 0, "ban_eos_token": True, "logit_bias": FEW_TOKENS},
    "no token left": {"grammar_string": f"root ::= {json.dumps(SENTENCE)}", "ban_eos_token": True},
}


@pytest.fixture(scope="module", params=["lookup", "draft model"])
def answers(request: pytest.FixtureRequest, tiny: Path) -> dict[str, tuple[DraftedAnswer, DraftedAnswer]]:
    """Return answers without and with drafts by name. The draft model is the model itself: its drafts are right where
    the likeliest token is taken."""
    single: dict[str, Question] = {f"seed {number}": (SENTENCE, params) for number, params in enumerate(SAMPLED)}
    single |= {"greedy": (SENTENCE, PLAIN), "penalties": (SENTENCE, PENALIZED)}
    single["free"] = (SENTENCE, {"max_new_tokens": 40, "ban_eos_token": True})
    single |= {name: (SENTENCE * 3, settings) for name, settings in ENDS.items()}
    crowd: dict[str, Question] = {topic: (chat(topic), PLAIN) for topic in TOPICS}
    groups = [[question] for question in single.values()] + [list(crowd.values())]
    options = {**OPTIONS, "n_ctx": 256}
    if request.param == "lookup":
        with_drafts = [[(prompt, {**settings, **LOOKUP}) for prompt, settings in group] for group in groups]
        mixed = [question if number % 2 else with_drafts[-1][number] for number, question in enumerate(groups[-1])]
        both = drafted_answers(tiny, options, [*groups, *with_drafts[:-1], mixed])
    else:
        both = drafted_answers(tiny, options, groups)
        both += drafted_answers(tiny, {**options, "model_draft": tiny.name, "draft_max": 6}, groups)
    plain, drafted = (
        [answer for group in side for answer in group] for side in (both[: len(groups)], both[len(groups) :])
    )
    return dict(zip([*single, *crowd], zip(plain, drafted, strict=True), strict=True))


Answers = dict[str, tuple[DraftedAnswer, DraftedAnswer]]


def test_answers_end_with_drafts_as_they_do_without(answers: Answers, subtests: pytest.Subtests) -> None:
    for name in ENDS:
        with subtests.test(name):
            plain, drafted = answers[name]
            assert dataclasses.replace(drafted, drafted=0, accepted=0) == plain
            assert drafted.error or drafted.drafted > 0


def test_drafts_change_neither_the_likeliest_tokens_nor_what_a_seed_draws(answers: Answers) -> None:
    """Rounding may change one token, and then the rest of that answer."""
    pairs = [answers[name] for name in ("greedy", "penalties", *(f"seed {seed}" for seed in range(5)), *TOPICS)]
    same = [common_prefix_length(plain.tokens, drafted.tokens) for plain, drafted in pairs]
    assert sum(length == 40 for length in same) >= len(same) - 2, same
    assert sum(drafted.accepted for _, drafted in pairs) < sum(drafted.drafted for _, drafted in pairs)


def test_drafts_save_batches_and_are_counted(answers: Answers, request: pytest.FixtureRequest) -> None:
    by_model = "draft model" in request.node.callspec.id  # which does not know the grammar
    plain, drafted = answers["free" if by_model else "grammar"]
    assert (plain.drafted, plain.accepted) == (0, 0)
    assert drafted.accepted > drafted.completion_tokens / 2
    assert sum(answers[topic][1].drafted > 0 for topic in TOPICS) in (2, 4), "two of them look nothing up"


def test_attention_sinks_count_where_drafts_and_answers_end(tiny: Path) -> None:
    """The beginning of a text is dropped. Five tokens of it stay in front of the rest until the cache is full."""
    older, newer = ("".join(f"{number}. The sun again. " for number in numbers) for numbers in (range(6), range(6, 20)))
    settings = {**PLAIN, "temperature": 1, "seed": 1, "ban_eos_token": True}
    asked = [(older + newer, {"max_new_tokens": 1}), (newer, settings), (newer, settings | LOOKUP)]
    asked.append((newer, {**settings, **LOOKUP, "max_new_tokens": 0}))
    options = {**OPTIONS, "n_ctx": 256, "streaming_llm": True, "attention_sink_size": 5}
    _, (plain,), (drafted,), (whole,) = drafted_answers(tiny, options, [[question] for question in asked])
    for ended in (plain, drafted):
        assert ended.cells == 5 + ended.prompt_tokens + ended.completion_tokens - 1
    assert drafted.drafted > drafted.accepted
    assert whole.cells == whole.prompt_tokens + whole.completion_tokens - 1
    assert (whole.reason, whole.cells) == ("length", 256)


def test_a_request_with_a_draft_is_cancelled_at_once(tiny_llama: WorkerProcess) -> None:
    forget(tiny_llama)
    crowd = Crowd(tiny_llama)
    call = crowd.ask(SENTENCE * 3, max_new_tokens=400, grammar_string=GRAMMAR, **LOOKUP)
    crowd.wait(call, Text, 5)
    tiny_llama.cancel(call)
    assert answer(tiny_llama, SENTENCE * 3, max_new_tokens=9, grammar_string=GRAMMAR).text == SENTENCE.rstrip()


@pytest.fixture
def fitting_names(smollm2: Path, tmp_path: Path, tiny: Path) -> Path:
    """Return a model that lies in a folder with others, which have other vocabularies, or are damaged."""
    metadata = read_metadata(smollm2)
    texts = metadata["tokenizer.ggml.tokens"]
    (tmp_path / "publisher").mkdir()
    model = tmp_path / "publisher" / "large.gguf"
    model.symlink_to(tiny)
    (tmp_path / "small.gguf").symlink_to(tiny)
    more = [f"<more {number}>" for number in range(200)]
    kinds = metadata["tokenizer.ggml.token_type"]
    longer = {"tokenizer.ggml.tokens": [*texts, *more], "tokenizer.ggml.token_type": [*kinds, *[1] * len(more)]}
    for name, changed in {
        "publisher/foreign": {"tokenizer.ggml.tokens": [*texts[:17], "<other>", *texts[18:]]},
        "longer": longer,
        "beginning": {"tokenizer.ggml.add_bos_token": True},
        "sentencepiece": {"tokenizer.ggml.model": "llama"},
    }.items():
        (tmp_path / f"{name}.gguf").write_bytes(tiny_gguf_bytes({**metadata, **changed}))
    (tmp_path / "damaged.gguf").write_bytes(tiny.read_bytes()[:100_000])
    return model


def test_a_draft_model_that_does_not_fit_is_left_out_with_a_note(fitting_names: Path, worker: WorkerProcess) -> None:
    options = {"n_ctx": 256, "threads": 1, "threads_batch": 1}
    reasons = {}
    others = ("longer.gguf", "beginning.gguf", "sentencepiece.gguf", "damaged.gguf")
    for name in ("small.gguf", "publisher/foreign.gguf", "foreign.gguf", "absent.gguf", *others):
        info = load(worker, fitting_names, **options, model_draft=name)
        reasons[name] = [note.text["en"] for note in info.notes if note.option == "model_draft"]
        assert answer(worker, SENTENCE, max_new_tokens=2).done.completion_tokens == 2
    foreign = "Not used: foreign.gguf cannot draft for large.gguf: its token 17 has a different text."
    for name, reason in zip(
        others,
        (
            "its vocabulary has a different size (49,352 / 49,152 tokens).",
            "its special tokens differ.",
            "its vocabulary has a different type.",
            "llama.cpp could not load damaged.gguf",
        ),
        strict=True,
    ):
        (text,) = reasons.pop(name)
        assert text.startswith(f"Not used: {name} cannot draft for large.gguf: {reason}")
    assert reasons == {
        "small.gguf": [],
        "publisher/foreign.gguf": [foreign],
        "foreign.gguf": [foreign],
        "absent.gguf": ["Not used: absent.gguf cannot draft for large.gguf: there is no such file."],
    }
