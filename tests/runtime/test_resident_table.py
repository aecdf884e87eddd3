"""Which of several models is taken by requests that name none."""

from __future__ import annotations

import dataclasses
import time

import pytest

from modules.core.errors import NoModelLoaded
from modules.core.events import Progress
from modules.loaders.load_settings import resolve
from modules.loaders.registry import LOADERS
from modules.runtime.load_plan import LoadPlan
from modules.runtime.load_task import LoadTask
from modules.runtime.memory_room import MemoryRoom
from modules.runtime.node_memory import NodeMemory
from modules.runtime.resident import ResidencyLimits
from modules.runtime.resident_table import ResidentTable
from modules.system.gpus import Gpu
from tests.support import echo_plans


def table_of(**tasks: str) -> ResidentTable:
    """Return models that are asleep, by name and task; the last one is the page's."""
    table = ResidentTable(None, ResidencyLimits(), time.monotonic)
    for name, task in tasks.items():
        plan = echo_plans.plan(name)
        plan = dataclasses.replace(plan, record=dataclasses.replace(plan.record, task=task))
        table.show_loading(LoadTask(name=name, plan=plan), plan)
        table.find(name).sleep()
    return table


def test_a_request_takes_a_model_of_its_task_before_the_one_of_the_page() -> None:
    table = table_of(chat="", other="", ranks="rank", embeds="embed")
    table.find("other").idle_since = 5.0
    assert table.default_name() == table.default_name("embed") == "embeds"
    assert (table.default_name(""), table.default_name("rank")) == ("other", "ranks")


def test_without_a_model_of_the_task_another_one_is_taken_to_say_so() -> None:
    assert table_of(chat="", embeds="embed").default_name("rank") == "embeds"
    table = table_of(chat="")
    table.chosen = ""
    assert table.default_name("embed") == "chat"
    with pytest.raises(NoModelLoaded):
        table_of().default_name("embed")


def test_changes_are_announced() -> None:
    table, calls = table_of(a=""), list[int]()
    with table.changes.watched_by(lambda: calls.append(1)):
        table.publish()
        assert calls == [1]
    table.publish()
    assert calls == [1]


def test_a_node_is_not_asked_for_its_memory_while_a_model_is_sent_to_it() -> None:
    room = MemoryRoom()
    table = ResidentTable(room, ResidencyLimits(), time.monotonic)
    loader = LOADERS["llama.cpp"]
    options = resolve(loader, model={}, saved={}, flags={"rpc": "node:1", "n_gpu_layers": -1}, form={})
    plan = LoadPlan(echo_plans.record("a"), loader, options)
    table.show_loading(LoadTask(name="a", plan=plan), plan)
    assert room.loading_nodes == frozenset(), "it is asked before the load"
    table.show_progress("a", Progress("weights", 0.0))
    assert room.loading_nodes == {"node:1"}
    room.node_memory = NodeMemory(lambda nodes: pytest.fail(f"asked {nodes}"))
    assert room.remote_devices(plan.nodes) == [Gpu("node:1", 0, 0)]
    table.fail("a", plan, NoModelLoaded())
    assert room.loading_nodes == frozenset()


def test_a_load_that_was_given_up_leaves_a_model_as_it_was() -> None:
    table = table_of(asleep="")
    for name in ("asleep", "new"):
        task = LoadTask(name=name, plan=echo_plans.plan(name), by_hand=False)
        table.show_loading(task, echo_plans.plan(name))
        assert table.find(name).state == "loading"
        table.undo_load(task)
    assert table.find("asleep").state == "asleep" and "new" not in table


def test_a_failed_load_of_a_new_model_is_shown() -> None:
    table = table_of(a="")
    table.fail("b", echo_plans.plan("b"), NoModelLoaded())
    assert {view.name: view.state for view in table.views()} == {"a": "asleep", "b": "failed"}
    table.fail("c", None, NoModelLoaded())
    assert "c" not in table and table.crashed == set()
