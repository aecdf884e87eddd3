"""A limit that ends a process in native code, and leaves no timer behind."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from modules.core.paths import ROOT
from modules.engines.time_limit import is_expiry

IMPORTS = """
import ctypes, signal
from modules.engines.time_limit import time_limit
"""


def run(program: str) -> int:
    """Return the exit status of a Python program."""
    return subprocess.run([sys.executable, "-c", IMPORTS + program], cwd=ROOT, timeout=10, check=False).returncode


def test_a_process_that_exceeds_the_limit_is_ended_though_native_code_holds_the_gil() -> None:
    assert run("with time_limit(0.2): ctypes.PyDLL(None).sleep(60)") == -signal.SIGALRM


WITHOUT_TIMER = """
import signal
del signal.setitimer
"""


@pytest.mark.parametrize(("program", "status"), [("ctypes.PyDLL(None).sleep(60)", 1), ("pass", 0)])
def test_without_a_timer_of_the_kernel_the_end_is_announced_on_stderr(program: str, status: int) -> None:
    """As on Windows: a thread that needs no GIL ends the process."""
    whole = WITHOUT_TIMER + IMPORTS + f"with time_limit(0.3): {program}\nctypes.CDLL(None).usleep(500_000)"
    command = [sys.executable, "-c", whole]
    ended = subprocess.run(command, cwd=ROOT, timeout=10, check=False, capture_output=True, text=True)
    assert (ended.returncode, any(map(is_expiry, ended.stderr.splitlines()))) == (status, status == 1)


def test_the_limit_ends_with_the_block() -> None:
    assert (
        run("""
with time_limit(100):
    assert 99 < signal.getitimer(signal.ITIMER_REAL)[0] <= 100
assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
""")
        == 0
    )


def test_the_limit_ends_with_an_error_in_the_block_and_the_timer_of_the_caller_begins_again() -> None:
    assert (
        run("""
signal.setitimer(signal.ITIMER_REAL, 50)
try:
    with time_limit(100):
        raise ValueError
except ValueError:
    assert 49 < signal.getitimer(signal.ITIMER_REAL)[0] <= 50
""")
        == 0
    )
