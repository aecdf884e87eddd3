"""Nothing is collected during the start, and its objects are left out of later collections."""

from __future__ import annotations

import gc

from modules.system.garbage_collection import THRESHOLDS, pause_collection, spare_permanent_objects


def test_objects_that_exist_are_not_searched_again() -> None:
    before = gc.get_threshold()
    kept = [object() for _ in range(3)]
    try:
        pause_collection()
        assert not gc.isenabled()
        spare_permanent_objects()
        assert gc.isenabled()
        assert (gc.get_threshold(), gc.get_freeze_count() > 0) == (THRESHOLDS, True)
        assert not any(one is kept for one in gc.get_objects())
    finally:
        gc.enable()
        gc.unfreeze()
        gc.set_threshold(*before)
