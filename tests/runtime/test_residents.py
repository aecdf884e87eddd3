"""Several models: which are loaded for requests, which make room, which sleep, and who is told what."""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from modules.core.errors import ModelNotFound, NoModelLoaded, Unsupported
from modules.core.worker_errors import LoadCancelled, Unloaded, WorkerDied
from modules.runtime.errors import InsufficientMemory, ModelAsleep, ModelsBusy
from modules.runtime.load_plan import LoadPlan, LoraAdapter
from modules.runtime.loaded_model import Lease
from modules.runtime.model_manager import ModelManager
from modules.runtime.resident import ResidencyLimits, Resident
from modules.runtime.waiting import Waiter, WaitingRequests, release_when_granted
from tests.conftest import worker_pids
from tests.support.echo_plans import load, plan, texts, wait_until
from tests.support.shelf import Shelf

MakeOwner = Callable[..., ModelManager]


class Clock:
    """A clock that is put forward by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_owner(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeOwner]:
    """A function that makes a manager of models for that much space, with the clock of the test."""
    monkeypatch.setattr("modules.runtime.eviction._RECHECK_SECONDS", 0.05)
    owners: list[ModelManager] = []

    def make(space: int = 1, limits: ResidencyLimits | None = None, **sizes: int) -> ModelManager:
        owners.append(ModelManager(room=Shelf(space, **sizes), limits=limits, clock=clock))
        return owners[-1]

    yield make
    for owner in owners:
        owner.close()


def request(owner: ModelManager, name: str, keep_alive: float | None = None) -> Future[Lease]:
    return owner.request(name, lambda: plan(name), keep_alive)


def lease(owner: ModelManager, name: str) -> Lease:
    return request(owner, name).result(timeout=10)


def use(owner: ModelManager, name: str, keep_alive: float | None = None) -> str:
    with request(owner, name, keep_alive).result(timeout=10) as model:
        return texts(model, f"hello {model.record.name.split()[0]}")


def states(owner: ModelManager) -> dict[str, str]:
    return {resident.name: resident.state for resident in owner.residents()}


def resident(owner: ModelManager, name: str) -> Resident:
    return next(resident for resident in owner.residents() if resident.name == name)


def is_loading(owner: ModelManager, name: str) -> bool:
    return any(one.name == name and one.progress > 0 for one in owner.residents())


# -- loads for requests ------------------------------------------------------------------------------------------------


def test_a_request_loads_its_model_and_the_next_one_finds_it(make_owner: MakeOwner) -> None:
    owner = make_owner()
    with lease(owner, "a") as first, lease(owner, "a") as second:
        assert first is second
        assert texts(first, "hello") == "hello "
    assert [(one.name, one.state, one.on_demand) for one in owner.residents()] == [("a", "ready", True)]


def test_a_request_that_may_not_load_uses_residents_and_wakes_them(make_owner: MakeOwner) -> None:
    owner = make_owner()
    with pytest.raises(NoModelLoaded):
        owner.request("a")
    with pytest.raises(NoModelLoaded):
        owner.request()
    use(owner, "a", keep_alive=0)
    wait_until(lambda: states(owner) == {"a": "asleep"})
    with owner.lease("a") as model:
        assert texts(model, "hello") == "hello "


def test_models_stay_in_memory_together_as_far_as_it_and_the_limit_go(make_owner: MakeOwner) -> None:
    owner = make_owner(space=10, limits=ResidencyLimits(models=3))
    for name in "abcd":
        use(owner, name)
    assert states(owner) == {"a": "asleep", "b": "ready", "c": "ready", "d": "ready"}
    assert len(worker_pids()) == 3


def test_the_model_used_least_recently_makes_room_and_no_more_than_needed(make_owner: MakeOwner, clock: Clock) -> None:
    owner = make_owner(space=4, limits=ResidencyLimits(models=9), wide=2)
    for name in ("a", "b", "wide", "a"):
        clock.now += 1
        use(owner, name)
    clock.now += 1
    use(owner, "c")
    assert states(owner) == {"a": "ready", "b": "asleep", "wide": "ready", "c": "ready"}
    clock.now += 1
    use(owner, "wide 2")
    assert states(owner) == {"a": "ready", "b": "asleep", "wide": "asleep", "c": "ready", "wide 2": "ready"}


def test_a_pinned_model_stays_and_the_error_names_who_holds_the_memory(make_owner: MakeOwner) -> None:
    owner = make_owner()
    use(owner, "a")
    owner.pin("a")
    with pytest.raises(InsufficientMemory, match=r"b, which needs about 1\.0 GB: it is held by a \(0\.0 GB\)") as error:
        use(owner, "b")
    assert error.value.status == 503 and "a (" in error.value.say("zh")
    assert states(owner) == {"a": "ready"}
    owner.pin("a", False)
    assert use(owner, "b") == "hello b "


def test_a_model_that_does_not_fit_alone_is_not_loaded_for_a_request_but_by_hand(make_owner: MakeOwner) -> None:
    owner = make_owner(large=2)
    with pytest.raises(InsufficientMemory, match="other programs"):
        use(owner, "large")
    assert states(owner) == {}
    assert texts(load(owner, "large"), "hello") == "hello "


def test_a_model_that_answers_is_not_unloaded_and_its_last_answer_is_waited_for(make_owner: MakeOwner) -> None:
    owner = make_owner()
    held = lease(owner, "a")
    waiting = request(owner, "b")
    time.sleep(0.1)
    assert not waiting.done() and states(owner)["a"] == "ready"
    assert texts(held.model, "hello") == "hello "
    held.release()
    held.release()  # has no effect
    with waiting.result(timeout=10) as model:
        assert model.record.name == "b"


def test_requests_for_a_waiting_model_come_before_later_ones_for_the_resident(make_owner: MakeOwner) -> None:
    owner = make_owner()
    held = lease(owner, "a")
    second = request(owner, "b")
    wait_until(lambda: owner._eviction.draining == ("a",))
    later = request(owner, "a")
    time.sleep(0.05)
    assert not later.done(), "it would keep b waiting"
    held.release()
    granted = second.result(timeout=10)
    time.sleep(0.05)
    assert not later.done(), "b has its place until its first request is through"
    granted.release()
    later.result(timeout=10).release()


def test_requests_for_a_model_that_need_not_make_room_are_granted_at_once(make_owner: MakeOwner) -> None:
    owner = make_owner(space=3, wide=2)
    small, wide = lease(owner, "a"), lease(owner, "wide")
    waiting = request(owner, "b")
    wait_until(lambda: states(owner).get("b") == "loading")
    time.sleep(0.05)
    other, later = request(owner, "wide"), request(owner, "a")
    assert other.done() and not later.done() and not waiting.done()
    for one in (small, wide, other.result()):
        one.release()
    waiting.result(timeout=10).release()
    later.result(timeout=10).release()


def test_forty_interleaved_requests_for_two_models_where_one_fits_are_all_answered(make_owner: MakeOwner) -> None:
    owner = make_owner()
    names = [random.Random(7).choice(("left", "right")) for _ in range(40)]
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda name: use(owner, name), names))
    assert answers == [f"hello {name} " for name in names]
    assert owner.crashed == set() and len(worker_pids()) == 1


def test_a_load_is_finished_for_others_although_its_client_has_left(make_owner: MakeOwner) -> None:
    owner = make_owner()
    waiting = request(owner, "brief")
    wait_until(lambda: is_loading(owner, "brief"))
    release_when_granted(waiting)
    assert waiting.cancelled()
    wait_until(lambda: states(owner)["brief"] == "ready")
    assert not resident(owner, "brief").generations
    assert use(owner, "a") == "hello a ", "nobody holds the other model"


def test_a_client_that_leaves_as_it_is_served_holds_nothing(make_owner: MakeOwner) -> None:
    owner = make_owner()
    granted = request(owner, "a")
    granted.result(timeout=10)
    release_when_granted(granted)
    assert use(owner, "b") == "hello b "


def test_a_load_that_has_not_begun_is_given_up_when_its_clients_have_left(make_owner: MakeOwner) -> None:
    owner = make_owner()
    with lease(owner, "a"):
        waiting = request(owner, "b")
        wait_until(lambda: "b" in states(owner))
        release_when_granted(waiting)
        wait_until(lambda: states(owner) == {"a": "ready"})
        lease(owner, "a").release()


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_failed_load_is_told_to_all_who_wait_and_not_repeated_for_a_while(
    make_owner: MakeOwner, clock: Clock
) -> None:
    owner = make_owner()
    loads: list[str] = []

    def make_plan() -> LoadPlan:
        loads.append("x")
        return plan("fail")

    waiting = [owner.request("fail", make_plan) for _ in range(3)]
    for one in waiting:
        assert isinstance(one.exception(timeout=10), Unsupported)
    with pytest.raises(Unsupported):
        owner.request("fail", make_plan)
    assert len(loads) == 1 and states(owner) == {"fail": "failed"}
    by_hand = [owner.begin(plan("fail")).exception(timeout=10) for _ in range(2)]
    assert by_hand[0] is not by_hand[1], "whoever presses Load again need not wait"
    with pytest.raises(Unsupported):
        owner.request("fail", make_plan)
    assert len(loads) == 1
    clock.now += 31
    assert isinstance(owner.request("fail", make_plan).exception(timeout=10), Unsupported)
    assert len(loads) == 2


def test_a_plan_that_cannot_be_made_is_told(make_owner: MakeOwner) -> None:
    owner = make_owner()

    def make_plan() -> LoadPlan:
        raise ModelNotFound("a")

    assert isinstance(owner.request("a", make_plan).exception(timeout=10), ModelNotFound)
    assert use(owner, "b") == "hello b "


def test_a_worker_that_is_killed_while_it_loads_or_answers_is_told_and_loaded_again(make_owner: MakeOwner) -> None:
    owner = make_owner()
    waiting = request(owner, "slow")
    wait_until(lambda: is_loading(owner, "slow"))
    os.kill(worker_pids().pop(), signal.SIGKILL)
    assert isinstance(waiting.exception(timeout=10), WorkerDied)
    held = lease(owner, "a")
    with pytest.raises(WorkerDied):
        texts(held.model, "hello kill")
    wait_until(lambda: states(owner)["a"] == "failed")
    assert use(owner, "a") == "hello a "
    held.release()


def test_a_model_that_is_stuck_is_loaded_again_beside_the_pages(make_owner: MakeOwner) -> None:
    owner = make_owner(space=2)
    load(owner, "chosen")
    with lease(owner, "a") as model, pytest.raises(WorkerDied):
        texts(model, "stuck")
    wait_until(lambda: states(owner) == {"chosen": "ready", "a": "ready"})
    assert owner.status.name == "chosen"


def test_requests_that_wait_too_long_or_are_too_many_are_told(make_owner: MakeOwner, clock: Clock) -> None:
    owner = make_owner(limits=ResidencyLimits(queue=2))
    with lease(owner, "a"):
        waiting = [request(owner, "b") for _ in range(2)]
        with pytest.raises(ModelsBusy, match="not available yet"):
            request(owner, "b")
        clock.now += 301
        owner.expire()
        assert all(isinstance(one.exception(timeout=10), ModelsBusy) for one in waiting)
        wait_until(lambda: states(owner) == {"a": "ready"})


# -- sleep -------------------------------------------------------------------------------------------------------------


def test_a_model_loaded_by_a_request_sleeps_an_hour_after_its_last_answer(make_owner: MakeOwner, clock: Clock) -> None:
    owner = make_owner(space=2)
    load(owner, "by hand")
    with lease(owner, "a"):
        clock.now += 4000
        owner.expire()
        assert states(owner)["a"] == "ready" and resident(owner, "a").sleeps_in is None
    assert resident(owner, "a").sleeps_in == 3600
    clock.now += 3599
    owner.expire()
    assert states(owner) == {"by hand": "ready", "a": "ready"}
    clock.now += 1
    owner.expire()
    assert states(owner) == {"by hand": "ready", "a": "asleep"}
    assert len(worker_pids()) == 1
    clock.now += 1e9
    owner.expire()
    assert states(owner)["by hand"] == "ready"


def test_requests_say_how_long_their_model_stays_and_pins_outrank_them(make_owner: MakeOwner, clock: Clock) -> None:
    owner = make_owner(space=2, limits=ResidencyLimits(idle_seconds=60))
    load(owner, "a")
    assert resident(owner, "a").sleeps_in == 60
    for keep_alive, seconds in ((5, 5), (None, 5), (math.inf, None)):
        use(owner, "a", keep_alive)
        assert resident(owner, "a").sleeps_in == seconds
    use(owner, "a", 5)
    owner.pin("a")
    assert resident(owner, "a").sleeps_in is None
    owner.pin("a", False)
    clock.now += 5
    owner.expire()
    assert states(owner) == {"a": "asleep"}


def test_sleep_comes_by_itself(tmp_path: Path) -> None:
    owner = ModelManager(room=Shelf(1))
    use(owner, "a", 0.05)
    wait_until(lambda: states(owner) == {"a": "asleep"} and not worker_pids())
    owner.close()


def test_a_woken_model_has_its_settings_and_loras(make_owner: MakeOwner) -> None:
    owner = make_owner()
    model = load(owner, "a")
    owner.apply_loras(model, [LoraAdapter("first", Path("first"), 0.5)])
    use(owner, "b")
    assert states(owner) == {"a": "asleep", "b": "ready"}
    assert owner.status.state == "asleep"
    with pytest.raises(ModelAsleep, match="a is asleep"):
        _ = owner.current
    with owner.lease() as woken:
        assert woken.record.name == "a" and texts(woken, "adapters") == "first "
        assert owner.current is woken and [lora.name for lora in owner.status.loras] == ["first"]


# -- the page's model --------------------------------------------------------------------------------------------------


def test_loading_by_hand_keeps_models_that_fit_and_replaces_those_that_do_not(make_owner: MakeOwner) -> None:
    owner = make_owner(space=2)
    load(owner, "a")
    assert load(owner, "b") is owner.current
    assert states(owner) == {"a": "ready", "b": "ready"}
    load(owner, "c")
    assert states(owner) == {"b": "ready", "c": "ready"}


def test_the_page_chooses_among_residents(make_owner: MakeOwner) -> None:
    owner = make_owner(space=2)
    first, second = load(owner, "a"), load(owner, "b")
    version = owner.status.version
    owner.choose("a")
    assert owner.current is first and owner.status.name == "a" and owner.status.version > version
    with owner.lease() as model:
        assert model is first
    assert [one.is_chosen for one in owner.residents()] == [True, False]
    with pytest.raises(ModelNotFound):
        owner.choose("c")
    owner.unload("b")
    assert owner.current is first and states(owner) == {"a": "ready"}
    with pytest.raises(Unloaded):
        texts(second, "hello")


def test_a_request_does_not_change_the_pages_model_but_is_it_if_there_is_none(make_owner: MakeOwner) -> None:
    owner = make_owner(space=2)
    use(owner, "a")
    assert owner.status.name == "a" and owner.status.state == "ready"
    use(owner, "b")
    assert owner.status.name == "a"
    owner.unload()
    assert owner.status.state == "empty" and states(owner) == {"b": "ready"}
    with owner.lease() as model:
        assert model.record.name == "b"
    with pytest.raises(WorkerDied):
        load(owner, "kill")
    use(owner, "b")
    assert owner.status.state == "failed"
    with owner.lease() as model:
        assert model.record.name == "b", "it is better than none"


def test_a_load_by_hand_that_is_cancelled_or_refused_leaves_the_pages_model(make_owner: MakeOwner) -> None:
    owner = make_owner(space=3, slow=2, large=4)
    first = load(owner, "a")
    loading = owner.begin(plan("slow"))
    wait_until(lambda: owner.status.name == "slow" and owner.status.progress > 0)
    owner.unload()
    assert isinstance(loading.exception(timeout=10), LoadCancelled)
    assert owner.current is first and owner.status.name == "a"
    owner.pin("a")
    with pytest.raises(InsufficientMemory):
        load(owner, "large")
    assert owner.current is first and states(owner) == {"a": "ready"}


def test_a_load_by_hand_does_not_wait_for_ever_for_the_answers_of_others(make_owner: MakeOwner, clock: Clock) -> None:
    owner = make_owner()
    with lease(owner, "a") as answering:
        loading = owner.begin(plan("b"))
        wait_until(lambda: states(owner).get("b") == "loading")
        clock.now += 301
        assert isinstance(loading.exception(timeout=10), ModelsBusy)
        assert texts(answering, "hello") == "hello "


def test_a_model_that_made_room_in_the_last_moment_is_closed_and_the_load_goes_on(make_owner: MakeOwner) -> None:
    owner = make_owner(limits=ResidencyLimits(wait_seconds=0))
    first = load(owner, "a")
    assert load(owner, "b").record.name == "b"
    assert isinstance(first.death, Unloaded)


def test_a_load_anew_that_a_later_one_cancels_leaves_the_model_as_it_was(make_owner: MakeOwner) -> None:
    owner = make_owner(space=2)
    with lease(owner, "a") as answering:
        again = owner.begin(plan("a"))
        wait_until(lambda: states(owner)["a"] == "loading")
        load(owner, "b")
        assert isinstance(again.exception(timeout=10), LoadCancelled)
        assert states(owner) == {"a": "ready", "b": "ready"} and texts(answering, "hello") == "hello "


def test_a_request_for_a_model_that_has_just_been_given_up_is_told(make_owner: MakeOwner) -> None:
    owner, waiting = make_owner(), WaitingRequests()
    model, waiter = load(owner, "a"), Waiter("a", None, 5.0, 0.0)
    assert model.retire(), "it is to make room"
    waiting.add(waiter)
    assert waiting.grant("a", model) == 5.0 and len(waiting) == 0
    assert isinstance(waiter.lease.exception(timeout=0), Unloaded)


def test_a_load_by_hand_joins_one_for_a_request_and_replaces_one_with_other_options(make_owner: MakeOwner) -> None:
    owner = make_owner(space=2)
    waiting = request(owner, "brief")
    wait_until(lambda: is_loading(owner, "brief"))
    model = load(owner, "brief")
    assert model is owner.current
    with waiting.result(timeout=10) as granted:
        assert granted is model
        assert not resident(owner, "brief").on_demand
        again = owner.begin(plan("brief"))
        time.sleep(0.1)
        assert not again.done(), "the old one is answering"
    assert again.result(timeout=10) is not model and owner.current is again.result()


def test_unloading_a_model_tells_those_who_wait_for_it(make_owner: MakeOwner) -> None:
    owner = make_owner()
    with lease(owner, "a"):
        waiting = request(owner, "b")
        wait_until(lambda: "b" in states(owner))
        owner.unload("b")
        assert isinstance(waiting.exception(timeout=10), Unloaded)
    loading = request(owner, "slow")
    wait_until(lambda: is_loading(owner, "slow"))
    owner.unload("slow")
    assert isinstance(loading.exception(timeout=10), Unloaded)
    assert "slow" not in states(owner)


def test_closing_ends_everything(make_owner: MakeOwner) -> None:
    owner = make_owner(space=2)
    load(owner, "a")
    use(owner, "b")
    waiting = [request(owner, "slow"), request(owner, "c")]
    owner.close()
    assert all(one.exception(timeout=10) is not None for one in waiting)
    assert not owner.residents() and not worker_pids()


def test_no_lease_is_lost_when_many_threads_load_use_and_unload(make_owner: MakeOwner) -> None:
    owner = make_owner(space=2)
    problems: list[BaseException] = []

    def work(number: int) -> None:
        source = random.Random(number)
        for _ in range(8):
            try:
                use(owner, source.choice("abc"))
            except (Unloaded, LoadCancelled, WorkerDied):
                continue
            except BaseException as error:
                problems.append(error)
                raise

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for name in "abcab":
        time.sleep(0.15)
        owner.unload(name)
    for thread in threads:
        thread.join(30)
    assert not problems and not any(thread.is_alive() for thread in threads)
    assert all(not one.generations for one in owner.residents())
