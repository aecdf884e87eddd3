"""Lists that never wait long: what is known so far is shown while a slow scan goes on in the background."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from modules.catalog import background_scan
from modules.catalog.background_scan import BackgroundScan
from modules.catalog.catalog import Catalog
from modules.lora.catalog import LoraCatalog
from modules.system.directory_walk import Files, walk_folders
from tests.support.checkpoint_files import put
from tests.support.gguf_files import gguf
from tests.support.lora_files import peft


@dataclass(frozen=True)
class Item:
    name: str
    path: Path


class SlowFolder:
    """A folder of two files, the second of which cannot be seen until `reachable` is set."""

    def __init__(self, folder: Path) -> None:
        self.names, self.folder = ["near", "far"], folder
        self.reachable = threading.Event()
        self.scans = 0
        self.scan = BackgroundScan(self.find, lambda items: items)
        for name in self.names:
            put(folder / name)

    def find(self) -> Iterator[Item]:
        self.scans += 1
        for name in self.names:
            if name == "far":
                self.reachable.wait(20)
            yield Item(name, self.folder / name)

    def listed(self, seconds: float | None = 0.05) -> set[str]:
        return {item.name for item in self.scan.items(seconds)}


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[SlowFolder]:
    folder = SlowFolder(tmp_path)
    yield folder
    folder.reachable.set()


def test_a_scan_runs_until_all_is_found(slow: SlowFolder) -> None:
    assert not slow.scan.is_running
    slow.listed()
    assert slow.scan.is_running
    slow.reachable.set()
    assert slow.listed(None) == {"near", "far"} and not slow.scan.is_running


def test_what_is_known_so_far_is_listed_and_the_rest_later(slow: SlowFolder) -> None:
    assert slow.listed() == {"near"}
    slow.reachable.set()
    assert slow.listed(None) == slow.listed(10) == {"near", "far"}


def test_the_first_item_is_waited_for_longer(slow: SlowFolder) -> None:
    slow.names.remove("near")
    threading.Timer(0.3, slow.reachable.set).start()
    assert slow.listed(0) == set(), "nothing is waited for"
    assert slow.listed(0.05) == {"far"}


def test_a_call_sees_what_was_there_when_it_was_made(slow: SlowFolder) -> None:
    slow.reachable.set()
    assert slow.listed(10) == {"near", "far"}
    put(slow.folder / "new")
    slow.names.append("new")
    assert slow.listed(10) == {"near", "far", "new"}


def test_what_is_new_is_listed_while_a_scan_takes_long(slow: SlowFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_scan, "LIST_SECONDS", 0.01)
    assert slow.listed() == {"near"}
    time.sleep(0.05)
    put(slow.folder / "new")
    slow.names.insert(0, "new")
    assert slow.listed() == {"new", "near"}
    (slow.folder / "new").unlink()
    assert slow.listed() == {"near"}
    assert slow.scans == 2, "there are never more than two scans at once"


def test_an_older_list_is_kept_until_a_slow_scan_has_ended(slow: SlowFolder) -> None:
    slow.reachable.set()
    assert slow.listed(10) == {"near", "far"}
    slow.reachable.clear()
    assert slow.listed() == {"near", "far"}


def test_callers_at_the_same_time_share_a_scan(slow: SlowFolder) -> None:
    results: list[set[str]] = []
    threads = [threading.Thread(target=lambda: results.append(slow.listed(10))) for _ in range(8)]
    for thread in threads:
        thread.start()
    slow.reachable.set()
    for thread in threads:
        thread.join()
    assert results == [{"near", "far"}] * 8


def test_a_failed_scan_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", lambda arguments: None)

    def broken() -> Iterator[Item]:
        yield from ()
        raise ZeroDivisionError

    with pytest.raises(RuntimeError, match="the scan failed"):
        BackgroundScan(broken, lambda items: items).items()


def test_folders_behind_links_are_visited_last(tmp_path: Path) -> None:
    for name in ("b", "c", "elsewhere/d"):
        put(tmp_path / "models" / name / "x.gguf" if name in "bc" else tmp_path / name / "x.gguf")
    (tmp_path / "models" / "a").symlink_to(tmp_path / "elsewhere")
    walked = [folder.relative_to(tmp_path / "models").as_posix() for folder, _ in walk_folders(tmp_path / "models")]
    assert walked == [".", "b", "c", "a", "a/d"]


def test_models_and_loras_in_a_slow_folder_are_listed_as_far_as_they_are_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reachable = threading.Event()

    def slow_walk(top: Path) -> Iterator[tuple[Path, Files]]:
        yield from walk_folders(top)
        reachable.wait(20)

    monkeypatch.setattr("modules.catalog.catalog.walk_folders", slow_walk)
    monkeypatch.setattr("modules.lora.catalog.walk_folders", slow_walk)
    put(tmp_path / "models" / "tiny.gguf", gguf())
    peft(tmp_path / "loras" / "cat")
    try:
        assert [record.name for record in Catalog(tmp_path / "models").models(0.3)] == ["tiny.gguf"]
        assert [record.name for record in LoraCatalog(tmp_path / "loras").all(0.3)] == ["cat"]
    finally:
        reachable.set()
