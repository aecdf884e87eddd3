"""Events of other threads reach an event loop in order, by one wake-up for all that have arrived."""

from __future__ import annotations

import asyncio
import threading

from modules.core.events import Event, Text
from modules.system.loop_mailbox import LoopMailbox


class CountingLoop(asyncio.SelectorEventLoop):
    """Counts how often it is woken."""

    woken = 0

    def call_soon_threadsafe(self, *args, **kwargs):  # type: ignore[no-untyped-def]
        self.woken += 1
        return super().call_soon_threadsafe(*args, **kwargs)


def test_events_posted_together_wake_the_loop_once_and_arrive_in_order() -> None:
    loop = CountingLoop()
    mailbox, received = LoopMailbox(loop), list[Event]()
    posted = [Text(str(number)) for number in range(100)]

    async def scenario() -> None:
        for event in posted:  # the loop runs nothing else meanwhile
            mailbox.post(received.append, event)
        assert loop.woken == 1
        await asyncio.sleep(0)
        assert received == posted
        mailbox.post(received.append, Text("later"))
        assert loop.woken == 2

    loop.run_until_complete(scenario())
    loop.close()


def test_no_event_is_lost_or_doubled_while_threads_post_and_the_loop_delivers() -> None:
    received: list[str] = []

    async def scenario() -> None:
        mailbox = LoopMailbox(asyncio.get_running_loop())

        def post(name: str) -> None:
            for number in range(500):
                mailbox.post(lambda event: received.append(event.text), Text(f"{name} {number}"))

        threads = [threading.Thread(target=post, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        while len(received) < 1500:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(scenario(), 5))
    for name in "abc":
        assert [text for text in received if text[0] == name] == [f"{name} {number}" for number in range(500)]


def test_posting_to_a_closed_loop_does_nothing() -> None:
    loop = asyncio.new_event_loop()
    mailbox = LoopMailbox(loop)
    loop.close()
    mailbox.post(lambda event: None, Text("late"))
