"""Requests wait for their model, and are told if it fails, takes too long or is unloaded."""

from __future__ import annotations

import os
import signal

import pytest

from modules.core.errors import ModelNotFound, Unsupported
from modules.core.worker_errors import Unloaded, WorkerDied
from modules.runtime.errors import ModelsBusy
from modules.runtime.load_plan import LoadPlan
from modules.runtime.resident import ResidencyLimits
from modules.runtime.waiting import Waiter, WaitingRequests, release_when_granted
from tests.conftest import worker_pids
from tests.support.echo_plans import load, plan, texts, wait_until
from tests.support.residents import Clock, MakeOwner, is_loading, lease, request, resident, states, use

# -- loads for requests ------------------------------------------------------------------------------------------------


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


# -- unloads -----------------------------------------------------------------------------------------------------------


def test_a_request_for_a_model_that_has_just_been_given_up_is_told(make_owner: MakeOwner) -> None:
    owner, waiting = make_owner(), WaitingRequests()
    model, waiter = load(owner, "a"), Waiter("a", None, 5.0, 0.0)
    assert model.retire(), "it is to make room"
    waiting.add(waiter)
    assert waiting.grant("a", model) == 5.0 and len(waiting) == 0
    assert isinstance(waiter.lease.exception(timeout=0), Unloaded)


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
