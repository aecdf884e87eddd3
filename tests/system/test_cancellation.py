"""Work in a thread ends soon after its result is no longer wanted."""

from __future__ import annotations

import pytest

from modules.system.cancellation import Cancelled, CancelToken, on_cancel, raise_if_cancelled


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
