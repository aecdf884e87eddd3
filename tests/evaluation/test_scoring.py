"""Distributions of the reference on disk: how many, how large, and that they are deleted."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from modules.engines.loglikelihoods import Loglikelihoods
from modules.evaluation import scoring
from modules.evaluation.errors import KlImpossible
from modules.evaluation.prepared import PreparedText
from modules.evaluation.scoring import Distributions, Scores
from modules.evaluation.windows import plan_windows

VOCABULARY = 1000


def prepared(windows_hash: str = "a", count: int = 200) -> PreparedText:
    windows = plan_windows(range(count), "rolling", stride=8, length=16)
    return PreparedText(windows, 8, 16, None, "", 1, windows_hash)


def test_at_most_sixteen_windows_are_kept_and_all_are_deleted(tmp_path: Path) -> None:
    kept = Distributions(tmp_path / "kl", prepared(), VOCABULARY)
    assert len(prepared().windows) > 16
    files = [Path(kept.file(index)) for index in range(20) if kept.file(index)]
    assert len(set(files)) == 16 and all(file.parent == tmp_path / "kl" for file in files)
    files[0].write_bytes(b"x")
    kept.close()
    assert not (tmp_path / "kl").exists()


def test_what_the_limit_or_the_disk_does_not_hold_is_refused_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    size = (15 + 15 * 8) * VOCABULARY * 4
    for name, value, words in (("MAX_KL_BYTES", size - 1, "limit"), ("DISK_RESERVE", 1 << 60, "disk space")):
        with subtests.test(name=name), monkeypatch.context() as patch:
            patch.setattr(scoring, name, value)
            with pytest.raises(KlImpossible, match=words):
                Distributions(tmp_path / "kl", prepared(), VOCABULARY)
            assert not (tmp_path / "kl").exists()
    monkeypatch.setattr(scoring, "MAX_KL_BYTES", size)
    Distributions(tmp_path / "kl", prepared(), VOCABULARY)


def test_models_with_other_tokens_are_not_compared(tmp_path: Path) -> None:
    kept = Distributions(tmp_path / "kl", prepared("a"), VOCABULARY)
    kept.check(prepared("a"))
    with pytest.raises(KlImpossible, match="tokens"):
        kept.check(prepared("b"))


def test_the_divergence_has_a_mean_a_percentile_and_the_share_of_equal_tokens() -> None:
    assert Scores([[-1.0]]).divergence is None
    scores = Scores()
    scores.add(Loglikelihoods([-1.0, -1.0], [0.1, 0.3], [True, False]))
    scores.add(Loglikelihoods([-1.0, -3.0], [0.1, 0.1], [True, True]))
    found = scores.divergence
    assert scores.running_perplexity == pytest.approx(math.exp(1.5))
    assert found is not None and found.windows == 2
    assert found.kl.mean == pytest.approx(0.15) and found.kl_99 == pytest.approx(0.294)
    assert found.same_top.mean == 0.75
