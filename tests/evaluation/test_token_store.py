"""Log-probabilities of earlier evaluations: paired comparisons, bounds, and files that are damaged."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from modules.evaluation import token_store
from modules.evaluation.statistics import compare
from modules.evaluation.token_store import TokenStore

ONE, OTHER = "0123456789ab", "ba9876543210"
BASE = [[-1.0, -2.0, -0.5], [-3.0, -0.25], [-1.5, -1.75]]
WORSE = [[-1.25, -2.0, -0.75], [-3.5, -0.5], [-1.5, -2.0]]


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    made = TokenStore(tmp_path / "tokens")
    made.keep(ONE, "hash", BASE)
    made.keep(OTHER, "hash", WORSE)
    return made


def test_a_later_evaluation_is_compared_token_by_token(store: TokenStore) -> None:
    assert store.compare(OTHER, ONE) == compare(WORSE, BASE)
    difference = store.compare(ONE, OTHER)
    assert difference is not None and difference.mean == -compare(WORSE, BASE).mean


def test_other_windows_are_not_compared(store: TokenStore) -> None:
    store.keep(OTHER, "another hash", WORSE)
    assert store.compare(OTHER, ONE) is None
    store.keep(OTHER, "hash", [[-math.inf, -2.0, -0.75], *WORSE[1:]])
    assert store.compare(OTHER, ONE) is None
    store.keep(OTHER, "hash", WORSE[:2])
    assert store.compare(OTHER, ONE) is None
    assert store.compare("no evaluation", ONE) is None and store.compare("../../secret", ONE) is None


def test_damaged_files_count_as_missing(store: TokenStore, tmp_path: Path, subtests: pytest.Subtests) -> None:
    file = tmp_path / "tokens" / f"{OTHER}.tokens"
    good = file.read_bytes()
    for content in (b"", good[:-1], good[:-4], good + b"1234", b"\xff\n", b"[]\n", b"5\n", b"[" * 100_000, b"{}\n"):
        file.write_bytes(content)
        with subtests.test(content=ascii(content[:20])):
            assert store.compare(OTHER, ONE) is None


def test_the_oldest_are_deleted_beyond_the_bounds(
    store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_store, "MAX_FILES", 3)
    for number in range(4):
        store.keep(f"{number:012x}", "hash", BASE)
    assert store.compare(OTHER, ONE) is None and len(list((tmp_path / "tokens").iterdir())) == 3
    monkeypatch.setattr(token_store, "MAX_BYTES", 100)
    store.keep(ONE, "hash", BASE)
    assert [path.name for path in (tmp_path / "tokens").iterdir()] == [f"{ONE}.tokens"]


def test_a_disk_that_refuses_costs_the_comparison_alone(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_bytes(b"a file")
    store = TokenStore(tmp_path / "tokens")
    store.keep(ONE, "hash", BASE)
    assert store.compare(ONE, ONE) is None
