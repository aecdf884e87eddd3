"""The compute threads of a context, bound to one CPU each, in a process that may use all CPUs of the machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modules.core.paths import ROOT

PROBE = """
import json, os, sys
from array import array
from pathlib import Path

from modules.engines.llamacpp.arguments import MAX_CPUS, arguments
from modules.engines.llamacpp.batch import Batch
from modules.engines.llamacpp.bindings import Model
from modules.engines.llamacpp.library import installed_build
from modules.engines.llamacpp.threadpool import ComputeThreads
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS

os.sched_setaffinity(0, range(os.cpu_count()))
if len(cpus := sorted(os.sched_getaffinity(0))) < 2:
    sys.exit("one CPU")
first, second = cpus[:2]
form = {"n_ctx": 256, "threads": 2, "threads_batch": 2}
options = option_values(resolve(LOADERS["llama.cpp"], model={}, saved={}, flags={}, form=form))
calls = arguments(Path(sys.argv[1]), options, installed_build())
model, batch = Model(Path(sys.argv[1]), calls, lambda fraction: None), Batch(8)
batch.add(array("i", [1, 2, 3, 4]), 0, 0, False)
others = set(os.listdir("/proc/self/task")) - {str(os.getpid())}  # of numpy

def bound(cores, workers=1):
    cpus = threads.bind(cores, workers)
    assert model.decode(batch) == 0
    model.truncate(0, 0)
    computing = set(os.listdir("/proc/self/task")) - others
    return [cpus, sorted(os.sched_getaffinity(0)), sorted(sorted(os.sched_getaffinity(int(one))) for one in computing)]

threads = ComputeThreads(model.context, calls)
both = [[first], [second]]
print(json.dumps([first, second, bound(both), bound([[second]], workers=2), bound(both), bound([[first], [MAX_CPUS]])]))
"""


def test_each_thread_is_bound_to_a_cpu_and_bound_again_when_the_cores_change(tiny: Path) -> None:
    command = [sys.executable, "-c", PROBE, str(tiny)]
    ended = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, check=False)
    if ended.stderr == "one CPU\n":
        pytest.skip("it takes two CPUs")
    assert ended.returncode == 0, ended.stderr[-1000:]
    first, second, two, alone, again, impossible = json.loads(ended.stdout)
    assert two == [[[first, second], [first, second]], [first], [[first], [second]]], "this thread is one of both"
    assert alone[:2] == [[[second], [second]], [second]], "beside another worker there is a core for one thread"
    assert again == two
    assert impossible == [[], *two[1:]], "no mask can name that CPU, and nothing changes"
