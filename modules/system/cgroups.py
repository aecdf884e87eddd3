"""The limits that control groups set for this process on Linux, as containers do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def own_folders(controller: str, root: Path = ROOT, own: Path = OWN) -> Iterator[Path]:
    """Yield the folders of this process's control groups, from its own up to `root`; nothing without control groups.

    Those of version 1 are the ones of `controller`, such as "memory". Version 2 has one hierarchy for all.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers or controller in controllers.split(","):
            base = root / controllers
            group = base / path.lstrip("/")
            for folder in (group, *group.parents):
                if folder.is_relative_to(base):  # in a container, `path` may be the host's; its own is then the base
                    yield folder


def cpu_quota(root: Path = ROOT, own: Path = OWN) -> float:
    """Return how many CPUs this process may use on average, such as 1.5; infinity without a limit."""
    return min((_quota_of(folder) for folder in own_folders("cpu", root, own)), default=float("inf"))


def _quota_of(folder: Path) -> float:
    """Return the quota of one group: microseconds of CPU time in each period, divided by the period."""
    try:
        if (folder / "cpu.max").exists():
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        limit = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no such group, or the limit "max"
        return float("inf")
    return limit if limit > 0 else float("inf")  # version 1 writes -1 for no limit
