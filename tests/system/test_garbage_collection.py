"""Objects of the start are left out of later garbage collections."""

from __future__ import annotations

import gc

from modules.system.garbage_collection import THRESHOLDS, spare_permanent_objects


def test_objects_that_exist_are_not_searched_again() -> None:
    before = gc.get_threshold()
    kept = [object() for _ in range(3)]
    try:
        spare_permanent_objects()
        assert (gc.get_threshold(), gc.get_freeze_count() > 0) == (THRESHOLDS, True)
        assert not any(one is kept for one in gc.get_objects())
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
