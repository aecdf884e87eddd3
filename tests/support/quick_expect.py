"""Have Playwright's assertions look at the page ten times a second for as long as they wait.

With a long timeout Playwright looks after 20, 70, 170 and 270 ms and from then on every 500 ms, so that a test waits a
quarter of a second for nothing at each change that takes longer. With a timeout of less than 2.5 s it keeps looking
every 100 ms. So an assertion is made of several short ones.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

from playwright.sync_api._generated import LocatorAssertions, PageAssertions

SLICE_MILLISECONDS = 2400
"""Below 2,500, above which Playwright's longest interval is 500 ms."""


def look_often(timeout: float) -> None:
    """Replace all assertions of locators and pages; those without a timeout have `timeout` milliseconds."""
    for kind in (LocatorAssertions, PageAssertions):
        for name in dir(kind):
            if name.startswith(("to_", "not_to_")):
                setattr(kind, name, _in_slices(getattr(kind, name), timeout))


def _in_slices(assertion: Callable[..., None], default: float) -> Callable[..., None]:
    """Return the assertion as a sequence of short ones, the last of which raises."""

    @functools.wraps(assertion)
    def assert_in_slices(*arguments: Any, timeout: float | None = None, **options: Any) -> None:
        __tracebackhide__ = True
        end = time.monotonic() + (default if timeout is None else timeout) / 1000
        while (left := 1000 * (end - time.monotonic())) > SLICE_MILLISECONDS:
            began = time.monotonic()
            try:
                return assertion(*arguments, timeout=SLICE_MILLISECONDS, **options)
            except AssertionError:
                if 1000 * (time.monotonic() - began) < SLICE_MILLISECONDS / 2:  # not for lack of time
                    raise
        return assertion(*arguments, timeout=max(left, 1), **options)

    return assert_in_slices
