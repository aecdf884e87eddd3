"""Whether a server answers: notified after three misses in a row, and when it answers again."""

from __future__ import annotations

import asyncio

from modules.core.events import ServerState
from modules.engines.served.health import Health
from modules.engines.served.http_client import HttpClient
from modules.engines.served.target import Target
from tests.support.fake_server import CUT, FakeServer, Reply

AWAY, BACK = ServerState(is_reachable=False), ServerState(is_reachable=True)


async def states_after(server: FakeServer, replies: list[Reply]) -> list[list[ServerState]]:
    """Return what has been notified after each of these replies."""
    notified: list[ServerState] = []
    server.add("/health", *replies)
    health = Health(HttpClient(Target(server.url)), "/health", notified.append)
    after = []
    for _ in replies:
        await health.ask()
        after.append(list(notified))
    return after


def test_a_server_is_unreachable_after_three_misses_until_it_answers() -> None:
    well, ill, cut = Reply(json={}), Reply(503), Reply(parts=[CUT], raw=True)
    with FakeServer() as server:
        notified = asyncio.run(states_after(server, [ill, cut, well, ill, ill, cut, cut, Reply(404), ill]))
    assert [len(states) for states in notified] == [0, 0, 0, 0, 0, 1, 1, 2, 2]
    assert notified[-1] == [AWAY, BACK]
