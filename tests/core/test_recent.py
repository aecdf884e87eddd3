"""What was set long ago is forgotten."""

from __future__ import annotations

from modules.core.recent import Recent


def test_the_entries_that_were_set_last_are_kept() -> None:
    recent: Recent[str, int] = Recent(2)
    recent["a"], recent["b"], recent["a"], recent["c"] = 1, 2, 3, 4
    assert recent == {"a": 3, "c": 4}
