"""Log-probabilities of targets from rows of logits, stored for comparison and compared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from modules.core.worker_errors import GenerationFailed, ReferenceNotStored, ReferenceUnusable
from modules.engines import target_scores
from modules.engines.loglikelihoods import Loglikelihoods, Window
from modules.engines.target_scores import TargetScores

VOCABULARY, PADDING = 50, 14
TOKENS = [3, 7, 49, 0, 11, 7]
Logits = NDArray[np.float32]


def random_logits(seed: int = 1, scale: float = 3) -> Logits:
    logits = np.random.default_rng(seed).normal(0, scale, (len(TOKENS) - 1, VOCABULARY + PADDING))
    return logits.astype(np.float32)


def score(logits: Logits, keep: Path | None = None, against: Path | None = None, **window: object) -> Loglikelihoods:
    """Score TOKENS by logits that come in pieces of two rows."""
    arguments = {"tokens": TOKENS, "first": 1, "vocabulary": VOCABULARY} | window
    vocabulary = arguments.pop("vocabulary")
    target = Window(**arguments, context=100, vocabulary_size=VOCABULARY, logits=logits.shape[1])
    with TargetScores("echo", target, vocabulary, str(keep or ""), str(against or "")) as scores:
        for begin in range(0, len(logits), 2):
            scores.add_logits(logits[begin : begin + 2])
        return Loglikelihoods.from_json(scores.result())


def exact(logits: Logits) -> NDArray[np.float64]:
    """Return log-probabilities in float64, of rows of logits."""
    rows = logits.astype(np.float64)
    return rows - np.logaddexp.reduce(rows, axis=1)[:, None]


def test_a_target_has_the_log_probability_of_its_logit_among_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for block in (1, 1 << 20):
        monkeypatch.setattr(target_scores, "BLOCK_BYTES", block)
        logits = random_logits(scale=30)
        expected = exact(logits)[np.arange(len(logits)), TOKENS[1:]]
        assert np.abs(np.array(score(logits).logprobs) - expected).max() < 1e-5


def test_a_model_does_not_diverge_from_itself(tmp_path: Path) -> None:
    logits = random_logits()
    kept = score(logits, keep=tmp_path / "kept")
    compared = score(logits, against=tmp_path / "kept")
    assert compared.logprobs == kept.logprobs
    assert max(map(abs, compared.kl)) < 1e-6
    assert all(compared.same_top)


def test_the_divergence_leaves_out_padding_and_renormalizes(tmp_path: Path) -> None:
    one, other = random_logits(1), random_logits(2)
    score(one, keep=tmp_path / "kept")
    compared = score(other, against=tmp_path / "kept")
    kept, ours = exact(one[:, :VOCABULARY]), exact(other[:, :VOCABULARY])
    assert np.abs(np.array(compared.kl) - (np.exp(kept) * (kept - ours)).sum(axis=1)).max() < 1e-5
    assert list(compared.same_top) == (kept.argmax(axis=1) == ours.argmax(axis=1)).tolist()
    assert np.allclose(np.fromfile(tmp_path / "kept", "<f4", offset=48).reshape(kept.shape), kept, atol=1e-5)


def test_a_token_that_is_impossible_for_the_first_model_adds_nothing(tmp_path: Path) -> None:
    one, other = random_logits(1), random_logits(2)
    one[:, 20] = -np.inf
    score(one, keep=tmp_path / "kept")
    assert np.isfinite(score(other, against=tmp_path / "kept").kl).all()
    other[0, 21] = -np.inf
    assert score(other, against=tmp_path / "kept").kl[0] == np.inf


def test_results_of_other_tokens_or_another_vocabulary_are_refused_by_name(
    tmp_path: Path, subtests: pytest.Subtests
) -> None:
    logits = random_logits()
    score(logits, keep=tmp_path / "kept.bin")
    for window, words in (
        ({"vocabulary": 49}, "50 tokens, this model's 49"),
        ({"tokens": [*TOKENS[:-1], 8]}, "other tokens"),
        ({"first": 2}, "other tokens"),
    ):
        with subtests.test(words), pytest.raises(ReferenceUnusable, match=rf"kept\.bin: .*{words}"):
            score(logits, against=tmp_path / "kept.bin", **window)


def test_missing_and_damaged_results_are_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    file = tmp_path / "kept"
    score(random_logits(), keep=file)
    whole = file.read_bytes()
    for name, content in (("short", whole[:-1]), ("long", whole + b"1"), ("empty", b""), ("foreign", b"GGUF" + whole)):
        file.write_bytes(content)
        with subtests.test(name), pytest.raises(ReferenceUnusable, match="damaged"):
            score(random_logits(), against=file)
    with pytest.raises(ReferenceUnusable, match="cannot be read"):
        score(random_logits(), against=tmp_path / "absent")


def test_what_ends_early_leaves_no_file_and_keeps_the_earlier_one(tmp_path: Path) -> None:
    score(random_logits(1), keep=tmp_path / "kept")
    before = (tmp_path / "kept").read_bytes()
    broken = random_logits(2)
    broken[3, 4] = np.nan
    with pytest.raises(GenerationFailed, match="NaN"):
        score(broken, keep=tmp_path / "kept")
    assert [file.name for file in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").read_bytes() == before


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(ReferenceNotStored, match="kept"):
        score(random_logits(), keep=tmp_path / "absent" / "kept")
