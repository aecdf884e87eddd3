"""A limit that ends a process in native code, and leaves no timer behind."""

from __future__ import annotations

import signal
import subprocess
import sys

from modules.core.paths import ROOT

IMPORTS = """
import ctypes, signal
from modules.engines.time_limit import time_limit
"""


def run(program: str) -> int:
    """Return the exit status of a Python program."""
    return subprocess.run([sys.executable, "-c", IMPORTS + program], cwd=ROOT, timeout=10, check=False).returncode


def test_a_process_that_exceeds_the_limit_is_ended_though_native_code_holds_the_gil() -> None:
    assert run("with time_limit(0.2): ctypes.PyDLL(None).sleep(60)") == -signal.SIGALRM


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
