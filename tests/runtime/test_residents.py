"""Several models: which are loaded for requests, which sleep, and which is the page's."""

from __future__ import annotations

import math
import random
import threading
import time
from pathlib import Path

import pytest

from modules.core.errors import ModelNotFound, NoModelLoaded
from modules.core.worker_errors import LoadCancelled, Unloaded, WorkerDied
from modules.runtime.errors import InsufficientMemory, ModelAsleep
from modules.runtime.load_plan import LoraAdapter
from modules.runtime.model_manager import ModelManager
from modules.runtime.resident import ResidencyLimits
from tests.conftest import worker_pids
from tests.support.echo_plans import load, plan, texts, wait_until
from tests.support.residents import Clock, MakeOwner, is_loading, lease, request, resident, states, use
from tests.support.shelf import Shelf

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


# -- failures ----------------------------------------------------------------------------------------------------------


def test_a_model_that_is_stuck_is_loaded_again_beside_the_pages(make_owner: MakeOwner) -> None:
    owner = make_owner(space=2)
    load(owner, "chosen")
    with lease(owner, "a") as model, pytest.raises(WorkerDied):
        texts(model, "stuck")
    wait_until(lambda: states(owner) == {"chosen": "ready", "a": "ready"})
    assert owner.status.name == "chosen"


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


def test_a_load_anew_that_a_later_one_cancels_leaves_the_model_as_it_was(make_owner: MakeOwner) -> None:
    owner = make_owner(space=2)
    with lease(owner, "a") as answering:
        again = owner.begin(plan("a"))
        wait_until(lambda: states(owner)["a"] == "loading")
        load(owner, "b")
        assert isinstance(again.exception(timeout=10), LoadCancelled)
        assert states(owner) == {"a": "ready", "b": "ready"} and texts(answering, "hello") == "hello "


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
