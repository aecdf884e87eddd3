"""What this machine is, as seen by a process that may not have all of it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from modules import machine
from modules.process import ROOT


def test_there_is_at_least_one_core_and_no_more_cores_than_processors() -> None:
    assert 1 <= machine.physical_cores() <= machine.logical_cores() == len(os.sched_getaffinity(0))


def test_a_process_bound_to_one_processor_has_one() -> None:
    program = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from modules import machine
print(machine.logical_cores(), machine.physical_cores())
"""
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert told.stdout == "1 1\n"


def test_memory_that_is_used_is_counted() -> None:
    before = machine.resident_memory()
    ballast = bytearray(os.urandom(1 << 20) * 50)
    assert machine.resident_memory() - before == pytest.approx(len(ballast), rel=0.1)


def test_the_memory_of_another_process_can_be_asked_for_until_it_ends() -> None:
    program = [sys.executable, "-c", "print('ready', flush=True); input()"]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert machine.resident_memory(child.pid) > 1 << 20
        child.communicate(b"\n")
    assert machine.resident_memory(child.pid) == 0
