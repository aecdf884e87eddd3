"""Changes of models as a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from modules.api.routes import router
from modules.app import App


def test_a_stream_of_changes_sends_comments_while_nothing_changes(
    make_app: Callable[..., App], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "_GAP_SECONDS", 0)
    monkeypatch.setattr(router, "SILENCE_SECONDS", 0.01)
    app = make_app()

    async def first_events() -> list[bytes]:
        changes = router._changes(app)
        return [await anext(changes) for _ in range(2)]

    assert asyncio.run(first_events()) == [b":\n\n", b":\n\n"]
