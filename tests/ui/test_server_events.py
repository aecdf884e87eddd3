"""Streams of events wait until there is news, and send it in rounds."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from modules.ui import server_events
from modules.ui.server_events import Waker, event_bytes


def test_an_event_is_one_line_of_json_whatever_it_contains() -> None:
    sent = event_bytes("live", {"text": "a\nb 你 \ud800"})
    assert sent == 'event: live\ndata: {"text":"a\\nb 你 ?"}\n\n'.encode()


def test_news_of_any_thread_ends_the_wait_and_counts_once() -> None:
    async def rounds() -> list[bool]:
        waker = Waker()
        waker.begin()
        for _ in range(3):
            threading.Thread(target=waker.wake).start()
        first = await waker.wait()
        waker.begin()
        return [first, await waker.wait()]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server_events, "PING_SECONDS", 0.05)
        assert asyncio.run(rounds()) == [True, False], "the second round has no news and ends with a ping"


def test_rounds_keep_their_distance_and_no_news_between_them_is_lost() -> None:
    async def two_rounds() -> float:
        waker = Waker()
        started = time.monotonic()
        for _ in range(2):
            waker.begin()
            waker.wake()
            assert await waker.wait()
        return time.monotonic() - started

    assert asyncio.run(two_rounds()) >= 2 * server_events.FLUSH_SECONDS
