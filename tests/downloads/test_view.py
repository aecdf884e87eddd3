"""The speed of a download is that of the last seconds."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from modules.downloads import view
from modules.downloads.view import SPEED_WINDOW_SECONDS, SpeedMeter


def test_the_speed_is_that_of_the_bytes_received_within_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(view, "time", SimpleNamespace(monotonic=lambda: now))
    meter = SpeedMeter()
    assert meter.measure(0) is None, "one sample has no duration"
    now = 2.0
    assert meter.measure(4000) == 2000
    now = SPEED_WINDOW_SECONDS + 2.0
    assert meter.measure(5000) == pytest.approx(1000 / SPEED_WINDOW_SECONDS), "the first two seconds count no longer"
    now = 3 * SPEED_WINDOW_SECONDS
    assert meter.measure(5000) is None, "nothing has come since"
