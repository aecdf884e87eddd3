"""Work in a thread ends soon after its result is no longer wanted."""

from __future__ import annotations

import asyncio
import threading

import pytest

from modules.system.cancellation import Cancelled, CancelToken, in_thread, on_cancel, raise_if_cancelled


def test_work_that_nobody_can_cancel_goes_on() -> None:
    raise_if_cancelled()
    with on_cancel(lambda: pytest.fail("it was not cancelled")):
        raise_if_cancelled()


def test_cancelled_work_ends_at_its_next_step() -> None:
    token, steps = CancelToken(), list[int]()

    def work() -> None:
        for step in range(3):
            raise_if_cancelled()
            steps.append(step)
            token.cancel()

    with pytest.raises(Cancelled):
        token.run(work)
    assert steps == [0]
    raise_if_cancelled()  # the token belongs to that work alone


def test_a_wait_is_ended_once_and_not_after_it_is_over() -> None:
    token, ended = CancelToken(), list[str]()

    def work() -> None:
        with on_cancel(lambda: ended.append("over")):
            pass
        with on_cancel(lambda: ended.append("waiting")):
            token.cancel()
            token.cancel()
        with on_cancel(lambda: ended.append("later")):
            pytest.fail("a cancelled work waits no more")

    with pytest.raises(Cancelled):
        token.run(work)
    assert ended == ["waiting"]


def test_the_end_of_a_task_ends_its_thread() -> None:
    """The thread waits for an event that only its cancellation sets."""
    waiting, ended = threading.Event(), threading.Event()

    def work() -> None:
        with on_cancel(ended.set):
            waiting.set()
            assert ended.wait(10)

    async def leave() -> None:
        task = asyncio.create_task(in_thread(work))
        await asyncio.to_thread(waiting.wait)
        task.cancel()
        await asyncio.wait([task])
        assert ended.wait(3)

    asyncio.run(leave())


def test_a_result_is_returned_and_an_error_is_raised() -> None:
    assert asyncio.run(in_thread(max, 1, 2)) == 2
    with pytest.raises(ZeroDivisionError):
        asyncio.run(in_thread(divmod, 1, 0))
