"""Binding of compute threads to cores: which worker may do it, and which of its threads are bound."""

from __future__ import annotations

import itertools
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from modules.catalog.record import ModelRecord
from modules.core.errors import Unsupported
from modules.core.events import Event, Json, Result
from modules.engines.llamacpp.arguments import MAX_CPUS, bound_cpus, thread_counts
from modules.loaders import generation_settings
from modules.loaders.load_settings import resolve
from modules.loaders.registry import LOADERS
from modules.runtime.core_binding import CoreBinding, divided
from modules.runtime.load_plan import LoadPlan
from modules.runtime.model_manager import ModelManager
from modules.runtime.worker_process import DECIDED_BY_USER, SHORT_WAITING, WorkerProcess
from modules.system import cpu_memory
from tests.conftest import ECHO, load
from tests.support.echo_plans import wait_until

TWO_CORES = [[0, 2], [1, 3]]

needs_two_cores = pytest.mark.skipif(len(cpu_memory.cpus_by_core()) < 2, reason="binding takes at least two cores")


@pytest.fixture
def binding() -> CoreBinding:
    """A binding with two cores, independent of this machine and of the user's environment variables."""
    return CoreBinding({}, lambda: TWO_CORES)


@pytest.fixture
def start() -> Iterator[Callable[..., WorkerProcess]]:
    """Return a function that starts workers with the echo engine. They are closed after the test."""
    with ExitStack() as stack:

        def start(path: str = "anything", **options: object) -> WorkerProcess:
            worker = WorkerProcess()
            stack.callback(worker.close)
            load(worker, Path(path), ECHO, **options)
            return worker

        yield start


def bound_cores(worker: WorkerProcess) -> list[list[int]]:
    """Return the cores that an echo worker has bound its threads to."""
    (event,) = worker.events("bound")
    assert isinstance(event, Result)
    return event.value


def echo_plan() -> LoadPlan:
    record = ModelRecord("good", Path("/models/good"), "gguf", size=0)
    return LoadPlan(record, ECHO, resolve(ECHO, model={}, saved={}, flags={}, form={}))


# -- sharing cores -----------------------------------------------------------------------------------------------------


def compute(worker: WorkerProcess) -> int:
    """Start a call that occupies the compute threads of an echo worker until it is cancelled, and return its number."""
    return worker.start("generate", lambda event: None, prompt="slow count 1000", params={})


def test_a_worker_has_all_cores_while_it_alone_computes_and_a_part_beside_others(
    binding: CoreBinding, start: Callable[..., WorkerProcess]
) -> None:
    first, second, third = workers = [start() for _ in range(3)]
    assert [binding.bind(worker) for worker in workers] == [True, True, True]
    assert [bound_cores(worker) for worker in workers] == [TWO_CORES] * 3
    compute(first)
    call = compute(second)
    assert [bound_cores(worker) for worker in workers] == [TWO_CORES[:1], TWO_CORES[1:], TWO_CORES]
    second.cancel(call)
    assert bound_cores(first) == TWO_CORES
    compute(third)
    assert [bound_cores(worker) for worker in workers] == [TWO_CORES[:1], TWO_CORES[1:], TWO_CORES[1:]]
    first.cancel(first.start("encode", lambda event: None, text="a"))
    assert bound_cores(first) == TWO_CORES[:1], "a quick question is no change"


def test_the_cores_of_a_killed_or_closed_worker_go_to_those_that_still_compute(
    binding: CoreBinding, start: Callable[..., WorkerProcess]
) -> None:
    first, second, third = workers = [start() for _ in range(3)]
    for worker in workers:
        binding.bind(worker)
        compute(worker)
    wait_until(lambda: bound_cores(third) == TWO_CORES[:1])
    os.kill(first.pid, signal.SIGKILL)
    wait_until(lambda: (bound_cores(second), bound_cores(third)) == (TWO_CORES[:1], TWO_CORES[1:]))
    third.close()
    wait_until(lambda: bound_cores(second) == TWO_CORES)


def test_a_worker_that_stops_while_cores_are_shared_leaves_its_cores(
    binding: CoreBinding, start: Callable[..., WorkerProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that hands out cores may be the one that notices it, in the thread that shares them."""
    first, second = start(), start()
    for worker in (first, second):
        binding.bind(worker)
    stopping, notify = compute(second), WorkerProcess._notify
    beginning = threading.Thread(target=compute, args=(first,), daemon=True)

    def stop_first(worker: WorkerProcess, was_computing: bool) -> None:
        if worker is second and was_computing and threading.current_thread() is beginning:
            worker.cancel(stopping)
        notify(worker, was_computing)

    monkeypatch.setattr(WorkerProcess, "_notify", stop_first)
    beginning.start()
    beginning.join(4)
    assert not beginning.is_alive(), "it waits for itself"
    assert bound_cores(first) == TWO_CORES


def test_cores_are_shared_while_a_long_request_waits_for_room_in_the_pipe(
    binding: CoreBinding, start: Callable[..., WorkerProcess]
) -> None:
    """The child takes no more of the request before its answer, which is longer than a pipe, has been read."""
    first, second = start(), start()
    for worker in (first, second):
        binding.bind(worker)
    answers = list[Event]()
    os.kill(second.pid, signal.SIGSTOP)
    second.start("generate", answers.append, prompt="hello", params={})
    for _ in range(3):
        second.start("pieces", answers.append, text="1 " * 8_000)
    second.start("count", answers.append, text="b " * 500_000)
    compute(first)
    os.kill(second.pid, signal.SIGCONT)
    wait_until(lambda: len(answers) >= 5)


def test_a_worker_without_others_begins_to_compute_without_a_search_for_cores(
    start: Callable[..., WorkerProcess],
) -> None:
    asked = []
    binding, worker = CoreBinding({}, lambda: asked.append(1) or TWO_CORES), start()
    binding.bind(worker)
    compute(worker)
    assert (len(asked), bound_cores(worker)) == (1, TWO_CORES)


def test_every_core_belongs_to_one_worker_unless_there_are_more_workers_than_cores() -> None:
    cores = [[0, 8], [1, 9], [2, 10], [3, 11], [4]]
    assert divided(cores, 1) == [cores]
    assert divided(cores, 2) == [[[0, 8], [2, 10], [4]], [[1, 9], [3, 11]]], "the first ones are the fastest"
    assert divided(cores, 5) == [[core] for core in cores]
    assert divided(cores, 7) == [[core] for core in (*cores, *cores[:2])]


def test_an_engine_that_declines_or_fails_has_no_part_of_the_cores(
    binding: CoreBinding, start: Callable[..., WorkerProcess]
) -> None:
    declining, failing, other = start(numa=True), start("refuse_cores"), start()
    assert not binding.bind(declining)
    with pytest.raises(Unsupported):
        binding.bind(failing)
    assert binding.bind(other)
    for worker in (declining, failing, other):
        compute(worker)
    assert (bound_cores(declining), bound_cores(other)) == ([], TWO_CORES)


def test_nothing_is_bound_if_the_user_sets_an_openmp_variable(start: Callable[..., WorkerProcess]) -> None:
    worker = start()
    for name in DECIDED_BY_USER:
        assert not CoreBinding({name: ""}, lambda: TWO_CORES).bind(worker), name
    assert bound_cores(worker) == []
    assert CoreBinding({"OMP_NUM_THREADS": "2"}, lambda: TWO_CORES).bind(worker)


def test_nothing_is_bound_to_a_single_core_or_if_cores_are_unknown(start: Callable[..., WorkerProcess]) -> None:
    worker = start()
    for cores in ([[0]], [[0, 1]], []):
        assert not CoreBinding({}, lambda cores=cores: cores).bind(worker), cores
        assert CoreBinding({}, lambda cores=cores: cores).waiting == SHORT_WAITING
    assert bound_cores(worker) == []


def test_workers_share_the_number_of_cores_where_threads_cannot_be_bound(start: Callable[..., WorkerProcess]) -> None:
    binding = CoreBinding({}, lambda: [[], []])
    first, second = start(), start()
    assert binding.waiting == SHORT_WAITING
    assert binding.bind(first) and binding.bind(second), "the echo engine takes what it gets"
    compute(first)
    compute(second)
    assert bound_cores(first) == bound_cores(second) == [[]]


def test_a_model_that_replaces_another_is_bound_and_explaining_binds_nothing(binding: CoreBinding) -> None:
    owner = ModelManager(binding)
    plan = echo_plan()
    try:
        owner.explain(plan)
        first = owner.load(plan)
        assert first.ask("bound") == TWO_CORES
        assert "OMP_WAIT_POLICY" not in first.ask("where")["env"]
        owner.explain(plan)
        second = owner.load(plan)
        assert second is not first
        assert second.ask("bound") == TWO_CORES
    finally:
        owner.unload()


def test_only_the_llama_cpp_loaders_bind_threads() -> None:
    assert [name for name, loader in LOADERS.items() if loader.binds_threads] == ["llama.cpp", "llamacpp_HF"]


# -- choice of CPUs ----------------------------------------------------------------------------------------------------


def calls(threads: int, threads_batch: int, **others: Json) -> dict[str, Json]:
    return {"llama_init_from_model": {"n_threads": threads, "n_threads_batch": threads_batch}, **others}


def cpus(calls: dict[str, Json], cores: list[list[int]], workers: int = 1) -> tuple[list[int], list[int]]:
    return bound_cpus(calls, cores, thread_counts(calls, cores, workers), MAX_CPUS if workers == 1 else 1)


def test_every_core_gets_one_thread_before_any_core_gets_two() -> None:
    assert cpus(calls(2, 2), [[0], [1]]) == ([0, 1], [0, 1])
    assert cpus(calls(2, 2), [[1], [6]]) == ([1, 6], [1, 6])
    assert cpus(calls(2, 4), TWO_CORES) == ([0, 1], [0, 1, 2, 3])
    assert cpus(calls(3, 3), [[0, 1], [2, 3]]) == ([0, 2, 1], [0, 2, 1])
    assert cpus(calls(3, 5), [[0, 1], [2, 3], [4]]) == ([0, 2, 4], [0, 2, 4, 1, 3])


def test_a_part_of_the_cores_gets_no_more_threads_than_it_has_room_for() -> None:
    assert cpus(calls(2, 2), [[1]], workers=2) == ([1], [1])
    assert cpus(calls(4, 8), [[2, 6], [3, 7]], workers=2) == ([2, 3], [2, 3, 6, 7])
    assert cpus(calls(2, 3), TWO_CORES[:1], workers=2) == ([0], [0, 2])
    assert cpus(calls(3, 3), [[0]], workers=2) == ([0], [0])


def test_threads_fill_the_fast_cores_of_a_hybrid_processor() -> None:
    cores = [[0, 1], [2, 3], [4], [5]]  # two fast ones
    assert bound_cpus(calls(2, 6), cores, (2, 6), 2) == ([0, 2], [0, 2, 4, 5, 1, 3])
    assert bound_cpus(calls(1, 6), cores, (1, 6), 2) == ([], [])


def test_where_threads_cannot_be_bound_their_number_is_shared() -> None:
    unknown: list[list[int]] = [[], [], [], []]
    assert thread_counts(calls(4, 8), unknown) == (4, 8)
    assert thread_counts(calls(4, 8), unknown[:2], 2) == (2, 2)
    assert cpus(calls(4, 8), unknown) == cpus(calls(4, 8), unknown[:2], 2) == ([], [])


def test_threads_stay_unbound_if_they_are_too_few_or_too_many_for_the_cores() -> None:
    cases: Sequence[tuple[dict[str, Json], list[list[int]]]] = [
        (calls(1, 2), [[0], [1]]),
        (calls(2, 1), [[0], [1]]),
        (calls(3, 2), [[0], [1]]),
        (calls(2, 5), TWO_CORES),
        (calls(2, 2, llama_numa_init={"numa": 1}), [[0], [1]]),
        (calls(2, 2), [[0], [MAX_CPUS]]),
    ]
    for arguments, cores in cases:
        assert cpus(arguments, cores) == ([], []), (arguments, cores)


# -- a real worker -----------------------------------------------------------------------------------------------------


def allowed_cpus(pid: int) -> dict[int, set[int]]:
    """Return the CPUs that each thread of a process may use, by thread id."""
    cpus = {}
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        match = re.search(r"^Cpus_allowed_list:\t(.*)$", status.read_text(), re.MULTILINE)
        assert match is not None
        ranges = [part.split("-") for part in match[1].split(",")]
        cpus[int(status.parent.name)] = {cpu for ends in ranges for cpu in range(int(ends[0]), int(ends[-1]) + 1)}
    return cpus


def generate(worker: WorkerProcess) -> None:
    params = generation_settings.resolve({"temperature": 0, "max_new_tokens": 4, "ban_eos_token": True})
    list(worker.events("generate", prompt="Once upon a time", params=params))


@needs_two_cores
@pytest.mark.parametrize("name", ["llama.cpp", "llamacpp_HF"])
def test_each_compute_thread_is_bound_to_one_core_and_other_threads_to_none(name: str, smollm2: Path) -> None:
    worker = WorkerProcess()
    try:
        load(worker, smollm2, LOADERS[name], n_ctx=256)
        assert all(cpus == os.sched_getaffinity(0) for cpus in allowed_cpus(worker.pid).values())
        assert CoreBinding({}).bind(worker)
        generate(worker)
        cpus_by_thread = allowed_cpus(worker.pid)
        second_core = cpu_memory.cpus_by_core()[1]
        worker.call("bind_threads", cores=[second_core], workers=2)
        generate(worker)
        assert allowed_cpus(worker.pid)[worker.pid] == {second_core[0]}
        worker.call("bind_threads", cores=cpu_memory.cpus_by_core())
        generate(worker)
        assert allowed_cpus(worker.pid) == cpus_by_thread
    finally:
        worker.close()
    bound = [cpus for cpus in cpus_by_thread.values() if cpus != os.sched_getaffinity(0)]
    expected = [{core[0]} for core in cpu_memory.cpus_by_core()]
    assert sorted(bound, key=min) == expected
    assert len(cpus_by_thread) > len(bound), "the thread that reads requests is not bound"
    assert cpus_by_thread[worker.pid] == expected[0], "the main thread decodes"


@needs_two_cores
def test_only_cores_that_this_process_may_use_are_granted(start: Callable[..., WorkerProcess]) -> None:
    allowed = os.sched_getaffinity(0)
    cpu = max(allowed)
    os.sched_setaffinity(0, {cpu})
    try:
        assert cpu_memory.cpus_by_core() == [[cpu]]
        assert not CoreBinding({}).bind(start())
    finally:
        os.sched_setaffinity(0, allowed)
    assert sorted(itertools.chain(*cpu_memory.cpus_by_core())) == sorted(allowed)
