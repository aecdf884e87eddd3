"""Which models make room for others, and how long a load waits for them."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from modules.core.worker_errors import Unloaded
from modules.runtime.errors import InsufficientMemory, ModelsBusy
from modules.runtime.resident import ResidencyLimits
from tests.conftest import worker_pids
from tests.support.echo_plans import load, plan, texts, wait_until
from tests.support.residents import Clock, MakeOwner, lease, request, states, use

# -- loads for requests ------------------------------------------------------------------------------------------------


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


# -- loads by hand -----------------------------------------------------------------------------------------------------


def test_loading_by_hand_keeps_models_that_fit_and_replaces_those_that_do_not(make_owner: MakeOwner) -> None:
    owner = make_owner(space=2)
    load(owner, "a")
    assert load(owner, "b") is owner.current
    assert states(owner) == {"a": "ready", "b": "ready"}
    load(owner, "c")
    assert states(owner) == {"b": "ready", "c": "ready"}


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
