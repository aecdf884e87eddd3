"""The search of the hub on the download panel: what is shown, and what the browser may send."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modules.app import App
from modules.hub.errors import BadAddress
from modules.hub.search import FoundRepository
from modules.ui.downloads.hub_search import results
from modules.ui.downloads.panel import DownloadsPanel
from modules.ui.handlers import Page
from modules.ui.locales import translator
from modules.ui.model.tab import ModelTab
from tests.support.downloading import until
from tests.support.hub_server import HubServer
from tests.support.page_parts import AsCalled, followers, page_parts
from tests.ui.test_ui import last

EN = translator("en")
REPO, FILE = "Qwen/Qwen3-4B-GGUF", "m-Q4_K_M.gguf"


@pytest.fixture
def hub(tiny: Path) -> Iterator[HubServer]:
    with HubServer() as started:
        started.add(REPO, {FILE: tiny})
        yield started


@pytest.fixture
def panel(make_app: Callable[..., App], hub: HubServer, tmp_path: Path) -> Any:
    app = make_app("--hf-endpoint", hub.url, "--lora-dir", str(tmp_path / "loras"))
    with page_parts() as blocks:
        page = Page(app, "en")
        whole = DownloadsPanel(page, ModelTab(page, followers()))
    parts: Any = AsCalled(blocks, whole.search, whole.chooser, whole.jobs)
    parts.app, parts.whole = app, whole
    return parts


def test_a_result_says_what_the_hub_knows() -> None:
    html = results([FoundRepository(REPO, 70_000, 1234, 4_022_468_096, 40_960, "2026-01-01", gated=True)], EN)
    for text in (REPO, "4.0B", "context 40960", "70k downloads", "1.2k likes", "updated 2026-01-01", "gated"):
        assert text in html
    assert "updated" not in results([FoundRepository(REPO)], EN)
    assert "No GGUF model matches" in results([], EN)


def test_repositories_are_found_by_name(panel: Any) -> None:
    html = last(panel.search("qwen3 4b"))[panel.results]
    assert f'data-repo="{REPO}"' in html
    assert last(panel.search("  "))[panel.results] == ""
    assert "No GGUF model" in last(panel.search("nothing like it"))[panel.results]


@pytest.mark.parametrize("text", [None, 5, [], {"a": 1}])
def test_an_invalid_text_finds_nothing(panel: Any, text: object) -> None:
    assert last(panel.search(text))[panel.results] == ""


def test_an_endpoint_without_search_says_so_in_one_sentence(panel: Any, hub: HubServer) -> None:
    hub.searchable = False
    assert "offers no search" in last(panel.search("qwen"))[panel.results]


def test_a_chosen_result_fills_the_address(panel: Any, subtests: pytest.Subtests) -> None:
    event = SimpleNamespace(_data={"repo": REPO})
    assert panel.choose(event)[panel.address] == REPO
    for data in (None, {}, {"repo": 5}, {"repo": "../../x"}, {"repo": "<script>"}):
        with subtests.test(data=data), pytest.raises(BadAddress):
            panel.whole.search.chosen(SimpleNamespace(_data=data))


def test_a_finished_download_can_be_loaded(panel: Any) -> None:
    listed = last(panel.list_files({}, REPO, ""))
    last(panel.start({**listed[panel.listed], "selected": [FILE]}, REPO, "", ""))
    until(lambda: [job.state for job in panel.app.downloads.snapshot()] == ["done"])
    tab = panel.whole._tab
    values = {tab.card.model: None, tab.options.baseline: {}}
    job = panel.app.downloads.snapshot()[0].id

    async def load() -> None:
        async for _ in panel.whole.load(values, SimpleNamespace(_data={"job": job})):
            pass

    asyncio.run(load())
    assert (panel.app.models.status.state, panel.app.models.status.name) == ("ready", FILE)


def test_large_counts_are_short() -> None:
    def shown(count: int) -> str:
        (found,) = re.findall(r"<span>(\S+) downloads", results([FoundRepository("a/b", downloads=count)], EN))
        return str(found)

    counts = [950, 1_000, 3_460, 9_999, 12_345, 999_999, 3_460_000, 9_990_000, 12_345_678]
    assert [shown(count) for count in counts] == ["950", "1.0k", "3.4k", "9.9k", "12k", "999k", "3.4M", "9.9M", "12M"]
