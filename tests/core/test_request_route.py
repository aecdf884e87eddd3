"""The programs that a request has passed."""

from __future__ import annotations

import os

import pytest

from modules.core import request_route
from modules.core.request_route import MOST_PROGRAMS, header_value, parse, passed, passing, program
from modules.core.server_errors import RequestLoops

OTHERS = tuple(f"{number:016x}" for number in range(MOST_PROGRAMS))


def test_a_request_to_a_server_names_the_programs_that_its_own_request_has_passed() -> None:
    assert header_value() == program()
    with passing(parse(",".join(OTHERS[:2]))):
        assert passed() == OTHERS[:2] and header_value() == f"{OTHERS[0]},{OTHERS[1]},{program()}"
    assert passed() == ()


def test_a_line_of_programs_is_allowed_and_a_loop_or_an_endless_line_is_not() -> None:
    assert parse(",".join(OTHERS[:-1])) == OTHERS[:-1]
    for refused in (program(), f"{OTHERS[0]}, {program()}", ",".join(OTHERS)):
        with pytest.raises(RequestLoops):
            parse(refused)


def test_what_is_no_id_is_not_passed_on() -> None:
    assert parse("x\r\nHost: a, " + OTHERS[1]) == (OTHERS[1],) and parse("") == ()


def test_the_id_of_a_program_is_that_of_no_other_one() -> None:
    assert request_route.VARIABLE not in os.environ, "what it starts, but for its workers, has its own"
