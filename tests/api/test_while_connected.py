"""The work for a request ends when its client disconnects, and only then."""

from __future__ import annotations

import asyncio
import sys

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from modules.api.while_connected import WhileConnected


class Client:
    """Receives as a server does: a client that has left is met by whoever asks."""

    def __init__(self) -> None:
        self.has_left = asyncio.Event()

    async def receive(self) -> Message:
        await self.has_left.wait()
        return {"type": "http.disconnect"}


def test_a_client_that_leaves_ends_the_block() -> None:
    async def scenario() -> list[str]:
        client, ended = Client(), []
        asyncio.get_running_loop().call_later(0.01, client.has_left.set)
        with pytest.raises(ClientDisconnect):
            async with WhileConnected(client.receive):
                try:
                    await asyncio.sleep(60)
                finally:
                    ended.append("block")
        await asyncio.sleep(0)  # which a cancellation that is left would end
        return ended

    assert asyncio.run(scenario()) == ["block"]


def test_a_client_that_leaves_after_the_block_ends_nothing() -> None:
    async def scenario() -> str:
        client = Client()
        async with WhileConnected(client.receive):
            await asyncio.sleep(0)
            client.has_left.set()
            await asyncio.sleep(0)  # the client's end is known when the block ends, and has not been acted on
        await asyncio.sleep(0.01)
        return "goes on"

    assert asyncio.run(scenario()) == "goes on"


async def cancel(client: Client, leaves: bool) -> None:
    """Cancel a task that serves a client, which `leaves` while the task ends."""

    async def serve() -> None:
        async with WhileConnected(client.receive):
            try:
                await asyncio.sleep(60)
            finally:
                if leaves:
                    client.has_left.set()
                    await asyncio.sleep(0.01)

    serving = asyncio.create_task(serve())
    await asyncio.sleep(0)
    serving.cancel()
    await serving


def test_a_cancellation_stays_one() -> None:
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel(Client(), leaves=False))


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 does not count cancellations")
def test_a_cancellation_beside_a_client_that_leaves_stays_one() -> None:
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancel(Client(), leaves=True))


def test_an_error_of_the_block_is_raised() -> None:
    async def scenario() -> None:
        async with WhileConnected(Client().receive):
            await asyncio.sleep(0)
            raise KeyError("own")

    with pytest.raises(KeyError):
        asyncio.run(scenario())
