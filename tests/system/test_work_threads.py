"""Jobs of an event loop run in one thread as long as each is quick, and end when nobody waits for them any more."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import time
import weakref

import pytest

from modules.system import work_threads
from modules.system.cancellation import on_cancel
from modules.system.work_threads import WorkThreads
from tests.support.echo_plans import wait_until


@pytest.fixture
def threads() -> WorkThreads:
    return WorkThreads()


def count_threads() -> int:
    return sum(thread.name == work_threads.THREAD_NAME for thread in threading.enumerate())


def test_a_result_is_returned_and_an_error_is_raised(threads: WorkThreads) -> None:
    assert asyncio.run(threads.run(max, 1, 2)) == 2
    with pytest.raises(ZeroDivisionError):
        asyncio.run(threads.run(divmod, 1, 0))
    assert asyncio.run(threads.run(min, 1, 2)) == 1, "in a third event loop"


def test_quick_jobs_run_in_one_thread_in_order(threads: WorkThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_threads, "PATIENCE_SECONDS", 60)  # however busy the machine is
    done = list[tuple[int, int]]()

    def note(number: int) -> None:
        done.append((number, threading.get_ident()))

    async def scenario() -> None:
        await asyncio.gather(*(threads.run(note, number) for number in range(99)))

    asyncio.run(scenario())
    assert [number for number, _ in done] == list(range(99))
    assert len({thread for _, thread in done}) == 1


def test_jobs_that_are_stuck_hold_up_no_other(threads: WorkThreads) -> None:
    release = threading.Event()

    async def scenario() -> None:
        stuck = [asyncio.create_task(threads.run(release.wait, 10)) for _ in range(3)]
        assert await asyncio.wait_for(threads.run(max, 1, 2), 5) == 2
        assert not any(task.done() for task in stuck)
        release.set()
        await asyncio.gather(*stuck)

    asyncio.run(scenario())


def test_a_thread_that_was_stuck_leaves_the_jobs_to_the_one_that_helped(
    threads: WorkThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, helping = threading.Event(), threading.Event(), threading.Event()

    def help_out() -> None:
        helping.set()
        second.wait(10)

    def note() -> int:
        first.set()  # from now on, both threads could do the jobs
        time.sleep(0.001)
        return threading.get_ident()

    async def scenario() -> set[int]:
        stuck = [asyncio.create_task(threads.run(first.wait, 10)), asyncio.create_task(threads.run(help_out))]
        await asyncio.to_thread(helping.wait, 10)
        monkeypatch.setattr(work_threads, "PATIENCE_SECONDS", 60)  # no third one helps
        jobs = asyncio.gather(*(threads.run(note) for _ in range(30)))
        await asyncio.sleep(0)
        second.set()
        await asyncio.gather(*stuck)
        return set(await jobs)

    assert len(asyncio.run(scenario())) == 1


def test_an_error_leaves_no_garbage(threads: WorkThreads) -> None:
    class Refused(Exception):
        pass

    def refuse() -> None:
        raise Refused

    async def scenario() -> weakref.ref[Refused]:
        try:
            await threads.run(refuse)
        except Refused as error:
            return weakref.ref(error)
        raise AssertionError

    gc.collect()
    gc.disable()
    try:
        error = asyncio.run(scenario())
        wait_until(lambda: error() is None)  # the thread may have to return from its last call
    finally:
        gc.enable()


def test_no_more_threads_help_than_there_may_be(threads: WorkThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_threads, "MOST_THREADS", 2)
    release, running, most = threading.Event(), 0, 0

    def job() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        release.wait(10)
        running -= 1

    async def scenario() -> None:
        jobs = [asyncio.create_task(threads.run(job)) for _ in range(4)]
        while running < 2:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.03)  # in which a third one could begin
        release.set()
        await asyncio.gather(*jobs)

    asyncio.run(scenario())
    assert most == 2


def test_a_thread_ends_when_it_has_had_no_job_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_threads, "IDLE_SECONDS", 0.02)
    threads, before = WorkThreads(), count_threads()
    asyncio.run(threads.run(max, 1, 2))
    wait_until(lambda: count_threads() == before)
    assert asyncio.run(threads.run(max, 1, 2)) == 2, "another one begins"


def test_a_job_knows_the_context_of_its_task(threads: WorkThreads) -> None:
    name = contextvars.ContextVar("name", default="")

    async def scenario() -> str:
        name.set("task")
        return await threads.run(name.get)

    assert asyncio.run(scenario()) == "task"


def test_the_end_of_a_task_ends_its_job(threads: WorkThreads) -> None:
    """The job waits for an event that only its cancellation sets."""
    waiting, ended = threading.Event(), threading.Event()

    def job() -> None:
        with on_cancel(ended.set):
            waiting.set()
            assert ended.wait(10)

    async def leave() -> None:
        task = asyncio.create_task(threads.run(job))
        await asyncio.to_thread(waiting.wait)
        task.cancel()
        await asyncio.wait([task])
        assert ended.wait(3)

    asyncio.run(leave())


def test_a_job_that_nobody_waits_for_does_not_begin(threads: WorkThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_threads, "MOST_THREADS", 1)
    release, begun = threading.Event(), list[str]()

    async def scenario() -> None:
        first = asyncio.create_task(threads.run(release.wait, 10))
        second = asyncio.create_task(threads.run(begun.append, "second"))
        await asyncio.sleep(0.01)
        second.cancel()
        await asyncio.wait([second])
        release.set()
        await first
        await threads.run(begun.append, "third")

    asyncio.run(scenario())
    assert begun == ["third"]
