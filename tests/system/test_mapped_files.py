"""Pages of mapped files are released, and nothing else."""

from __future__ import annotations

import ctypes
import mmap
import sys
from pathlib import Path

import pytest

from modules.system.mapped_files import drop_mapped_pages

PAGES = 64

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no /proc/self/maps")


def resident_bytes(address: int) -> int:
    """Return the bytes of the mapping that begins at `address` which are in memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    for line in lines:
        if line.startswith(f"{address:x}-"):
            return next(int(fact.split()[1]) << 10 for fact in lines if fact.startswith("Rss:"))
    raise AssertionError("nothing is mapped there")


def test_only_whole_pages_of_the_range_are_released_and_are_read_again(tmp_path: Path) -> None:
    content = bytes(range(256)) * (PAGES * mmap.PAGESIZE // 256)
    (tmp_path / "weights").write_bytes(content)
    with (tmp_path / "weights").open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY) as mapped:
        mapped.madvise(mmap.MADV_RANDOM)  # the kernel reads nothing ahead
        assert mapped[:] == content
        view = ctypes.c_char.from_buffer(mapped)
        begin = ctypes.addressof(view)
        kept = 2 * mmap.PAGESIZE
        assert drop_mapped_pages(begin + 1, len(content) - 2) == len(content) - kept
        assert resident_bytes(begin) == kept
        assert mapped[:] == content
        del view


def test_memory_that_is_no_file_is_left_as_it_is() -> None:
    with mmap.mmap(-1, PAGES * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = b"x" * len(memory)
        view = ctypes.c_char.from_buffer(memory)
        assert drop_mapped_pages(ctypes.addressof(view), len(memory)) == 0
        assert memory[:] == b"x" * len(memory)
        del view
