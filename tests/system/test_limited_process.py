"""Child processes end at a limit of time, memory or output, and the parent learns which one."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.system.limited_process import (
    OUT_OF_MEMORY,
    OUTPUT_TOO_LARGE,
    LimitedProcess,
    Limits,
    ProcessEnded,
)

pytestmark = pytest.mark.usefixtures("new_processes")

PROGRAM = """
import os

def answer(request, output_bytes):
    word = request.split()[0]
    if word == b"compute":
        (10 ** (10 ** 8)) % 7
    if word == b"fill":
        bytes(1 << 30)
    if word == b"write":
        return b"x" * output_bytes + b"\\n"
    if word == b"crash":
        os.abort()
    return b"answer to " + request
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def test_a_process_answers_several_requests(program: Path) -> None:
    process = LimitedProcess(program, Limits(2, 256 << 20, 100))
    assert [process.ask(request) for request in (b"one\n", b"two\n")] == [b"answer to one\n", b"answer to two\n"]
    process.kill()


def test_a_process_that_exceeds_a_limit_ends_and_says_which_one(program: Path, subtests: pytest.Subtests) -> None:
    for request, code in {b"fill": OUT_OF_MEMORY, b"write": OUTPUT_TOO_LARGE, b"crash": -6}.items():
        with subtests.test(request), pytest.raises(ProcessEnded) as ended:
            LimitedProcess(program, Limits(2, 256 << 20, 100)).ask(request + b"\n")
        assert (ended.value.code, ended.value.timed_out) == (code, False)
    with pytest.raises(ProcessEnded) as ended:
        LimitedProcess(program, Limits(1, 256 << 20, 100)).ask(b"compute\n")
    assert ended.value.timed_out
