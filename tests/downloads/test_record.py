"""Saved job records survive restarts, concurrent changes and damage."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from modules.core.paths import ROOT
from modules.downloads.errors import DiskFull
from modules.downloads.record import DownloadSpec, JobRecord, JobStore

SPEC = DownloadSpec("user/model", "main", "user_model", ("a", "b"), "lora")
RECORD = JobRecord("1", SPEC, "paused", "c" * 40, "d" * 40, True, 12, 2, "host", DiskFull("models", 5, 3))


def test_a_record_survives_a_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "jobs.json"
    JobStore(path).put(RECORD)
    JobStore(path).put(JobRecord("2", replace(SPEC, files=None)))
    records = JobStore(path).read()
    assert list(records) == ["1", "2"] and records["2"] == JobRecord("2", replace(SPEC, files=None))
    assert replace(records["1"], error=None) == replace(RECORD, error=None)
    assert records["1"].error and records["1"].error.say("zh") == RECORD.error.say("zh")  # type: ignore[union-attr]


def test_a_record_can_be_changed_and_removed(tmp_path: Path) -> None:
    store = JobStore(tmp_path / "jobs.json")
    version = store.version
    store.put(RECORD)
    store.put(replace(RECORD, state="queued"))
    assert store.read()["1"].state == "queued" and store.version != version
    store.remove("1")
    store.remove("1")
    assert store.read() == {}


def test_an_invalid_record_does_not_affect_others(tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    JobStore(path).put(RECORD)
    valid = json.loads(path.read_text())[0]
    path.write_text(path.read_text().replace("[", '[{"id": "0"}, 5, {"id": "3", "wanted": {}}, ', 1))
    assert list(JobStore(path).read()) == ["1"]
    for changes in (
        {"id": "../3"},
        {"state": "x"},
        {"wanted": {**valid["wanted"], "kind": "x"}},
        {"error": {"error": 3}},
    ):
        path.write_text(json.dumps([{**valid, **changes}]))
        assert JobStore(path).read() == {}
    path.write_text("{")
    assert JobStore(path).read() == {}


def test_a_record_without_sha256_from_an_older_version_is_read(tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    JobStore(path).put(replace(RECORD, spec=replace(SPEC, sha256="a" * 64)))
    assert JobStore(path).read()["1"].spec.sha256 == "a" * 64
    saved = json.loads(path.read_text())
    del saved[0]["wanted"]["sha256"]
    path.write_text(json.dumps(saved))
    assert JobStore(path).read()["1"].spec == SPEC
    assert replace(SPEC, sha256="a" * 64).identity != SPEC.identity


def test_the_order_of_files_does_not_matter_for_identity() -> None:
    assert SPEC.identity == replace(SPEC, files=("b", "a")).identity
    for changes in ({"repo": "x/y"}, {"revision": "b"}, {"files": ("a",)}, {"files": None}, {"target": "t"}):
        assert SPEC.identity != replace(SPEC, **changes).identity  # type: ignore[arg-type]


def test_concurrent_processes_lose_no_record(tmp_path: Path) -> None:
    path = tmp_path / "jobs.json"
    program = (
        "import sys; from pathlib import Path; from modules.downloads.record import *\n"
        "for n in range(30):\n"
        " JobStore(Path(sys.argv[1])).put(JobRecord(sys.argv[2] + str(n), DownloadSpec('a/b', 'c', 'd')))"
    )
    processes = [subprocess.Popen([sys.executable, "-c", program, str(path), name], cwd=ROOT) for name in "xyz"]
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert len(JobStore(path).read()) == 90


@pytest.mark.parametrize("language", ["zh", "en"])
def test_the_error_is_kept_in_both_languages(tmp_path: Path, language: str) -> None:
    store = JobStore(tmp_path / "jobs.json")
    store.put(RECORD)
    error = store.read()["1"].error
    assert error and "0.00 GB" in error.say(language)
