"""Whether models fit into memory together, by their estimates."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from modules.catalog.record import ModelRecord
from modules.core.rpc_errors import NodeInUse
from modules.engines.llamacpp.memory import placed
from modules.formats.gguf_header import read_header
from modules.loaders.load_settings import option_values, resolve
from modules.runtime.load_plan import LoadPlan
from modules.runtime.memory_room import RESERVE, MemoryRoom
from modules.runtime.node_memory import NodeMemory
from modules.system.gpus import Gpu
from modules.system.rpc_node import DeviceMemory, NodeFacts
from tests.conftest import LLAMA
from tests.support.echo_plans import record
from tests.support.gguf_files import gguf

SETTINGS = resolve(LLAMA, model={}, saved={}, flags={}, form={"n_ctx": 512})


@pytest.fixture
def known(tmp_path: Path) -> LoadPlan:
    (file := tmp_path / "known.gguf").write_bytes(gguf())
    header = dataclasses.replace(read_header(file), size=1 << 30)
    return LoadPlan(ModelRecord("known", file, "gguf", size=1 << 30, header=header), LLAMA, SETTINGS)


@pytest.fixture
def need(known: LoadPlan) -> int:
    assert known.record.header is not None
    return placed(known.record.header, option_values(SETTINGS))[0].needed


@pytest.fixture
def room() -> MemoryRoom:
    room = MemoryRoom()
    room.gpus = lambda: ()
    return room


def test_alone_a_model_needs_its_estimate_and_beside_others_a_reserve(
    room: MemoryRoom, known: LoadPlan, need: int
) -> None:
    room.available_memory = lambda: need
    assert room.fits(known, [])
    room.available_memory = lambda: need - 1
    assert not room.fits(known, [])
    mapped = need - room.freed(known)[0]
    assert mapped == 1 << 30, "the file, which the system counts as available"
    for extra, fits in ((1, True), (-1, False)):
        room.available_memory = lambda extra=extra: round(need * (1 + RESERVE)) + mapped + extra
        assert room.fits(known, [known]) is fits


def test_what_would_be_unloaded_is_free(room: MemoryRoom, known: LoadPlan, need: int) -> None:
    room.available_memory = lambda: need - room.freed(known)[0]
    assert not room.fits(known, [])
    assert room.fits(known, [], evicted=[known])


def test_a_model_without_an_estimate_fits_only_alone(room: MemoryRoom, known: LoadPlan) -> None:
    unknown = LoadPlan(record("unknown"), LLAMA, SETTINGS)
    room.available_memory = lambda: 1 << 50
    assert room.fits(known, [known])
    assert room.fits(unknown, []) and not room.fits(unknown, [known]) and not room.fits(known, [unknown])
    room.available_memory = lambda: 0  # the system does not tell
    assert room.fits(known, []) and not room.fits(known, [known])


def test_each_gpu_has_to_have_room(room: MemoryRoom, known: LoadPlan) -> None:
    plan = dataclasses.replace(known, settings=resolve(LLAMA, model={}, saved={}, flags={}, form={"n_gpu_layers": -1}))
    room.available_memory = lambda: 1 << 50
    for free, fits in ((64 << 30, True), (1 << 28, False)):
        room.gpus = lambda free=free: (Gpu("card", 64 << 30, free),)
        assert room.fits(plan, []) is fits
    assert len(room.freed(plan)) == 2
    assert room.free_on_cards(LLAMA, [plan]) == [(1 << 28) + room.freed(plan)[1]]


def test_a_node_serves_one_model_and_its_memory_counts_before_that_of_gpus(room: MemoryRoom, known: LoadPlan) -> None:
    answers = {"a:1": NodeFacts("7.0.0", (DeviceMemory(32 << 30, 64 << 30),)), "b:1": NodeInUse("b:1")}
    room.node_memory = NodeMemory(lambda nodes: {node: answers[node] for node in nodes})
    room.available_memory = lambda: 1 << 50
    room.gpus = lambda: (Gpu("card", 64 << 30, 64 << 30),)

    def on(nodes: str) -> LoadPlan:
        form = {"n_ctx": 512, "n_gpu_layers": -1, "rpc": nodes}
        return dataclasses.replace(known, settings=resolve(LLAMA, model={}, saved={}, flags={}, form=form))

    assert on("a:1, b:1").nodes == ("a:1", "b:1") and known.nodes == ()
    assert room.remote_devices(["a:1", "b:1"]) == [Gpu("a:1", 64 << 30, 32 << 30), Gpu("b:1", 0, 0)]
    assert room.fits(on("a:1"), []) and room.fits(on("b:1"), []), "what is unknown is no reason against a load"
    assert room.fits(on("a:1"), [on("b:1")]) and not room.fits(on("a:1"), [on("a:1, b:1")])
    assert len(room.freed(on("a:1, b:1"))) == 2, "main memory, and the card of this machine"
