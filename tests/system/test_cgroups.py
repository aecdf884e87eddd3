"""The quota of CPU time in control groups of both versions."""

from __future__ import annotations

from pathlib import Path

from modules.system.cgroups import cpu_quota

NO_LIMIT = float("inf")


def quota(root: Path, groups: str) -> float:
    (root / "own").write_text(groups)
    return cpu_quota(root, root / "own")


def test_the_lowest_quota_of_a_group_and_its_parents_counts(tmp_path: Path) -> None:
    group = tmp_path / "a" / "b"
    group.mkdir(parents=True)
    assert quota(tmp_path, "0::/a/b\n") == NO_LIMIT
    (group / "cpu.max").write_text("max 100000\n")
    assert quota(tmp_path, "0::/a/b\n") == NO_LIMIT
    (group / "cpu.max").write_text("250000 100000\n")
    assert quota(tmp_path, "0::/a/b\n") == 2.5
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    assert quota(tmp_path, "0::/a/b\n") == 1.5


def test_cgroups_of_version_1_have_two_files_and_minus_one_for_no_limit(tmp_path: Path) -> None:
    group = tmp_path / "cpu,cpuacct" / "a"
    group.mkdir(parents=True)
    (group / "cpu.cfs_period_us").write_text("50000\n")
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    groups = "4:memory:/a\n3:cpu,cpuacct:/a\n"
    assert quota(tmp_path, groups) == NO_LIMIT
    (group / "cpu.cfs_quota_us").write_text("75000\n")
    assert quota(tmp_path, groups) == 1.5


def test_damaged_or_missing_files_set_no_limit(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("150000\n")
    assert quota(tmp_path, "0::/\n") == NO_LIMIT
    (tmp_path / "cpu.max").write_text("150000 0\n")
    assert quota(tmp_path, "0::/\n") == NO_LIMIT
    assert cpu_quota(tmp_path, tmp_path / "absent") == NO_LIMIT
