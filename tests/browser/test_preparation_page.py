"""The page while llama.cpp is compiled: progress, a failure with its remedy, and the model loaded afterwards."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Server, Window
from tests.support.package_index import PackageIndex

PIP_MILLISECONDS = 90_000
"""How long pip may take beside a browser and a server on one core: it runs several times."""

WORDS = {
    "en": ("Chat", "Model", "Compiling llama.cpp: 3 of 8", "ran out of memory", "Try again", "Meanwhile"),
    "zh": ("聊天", "模型", "正在编译 llama.cpp：3/8", "内存不足", "重试", "其间"),
}


@pytest.fixture
def index(package_index: PackageIndex) -> PackageIndex:
    package_index.add_compiled(8)
    return package_index


@pytest.fixture
def preparing(tmp_path: Path, smollm2: Path, index: PackageIndex) -> Iterator[Server]:
    """A server that has just begun to compile, and is to load the demo model then."""
    (tmp_path / "models").mkdir()
    (tmp_path / "overlays").mkdir()
    (tmp_path / "models" / smollm2.name).symlink_to(smollm2)
    (tmp_path / "requirements-of-test.txt").write_text("compiled==1.0\n")
    (tmp_path / "settings.yaml").touch()
    index.allow(3)
    command = [sys.executable, "-m", "tests.support.preparing_server", str(tmp_path)]
    running = Server(
        tmp_path, "--prepare", "--model", smollm2.name, "--settings", str(tmp_path / "settings.yaml"), program=command
    )
    yield running
    index.allow(8)
    running.stop()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_shows_progress_failure_and_success_of_the_preparation(
    chromium: Browser, preparing: Server, index: PackageIndex, language: str
) -> None:
    chat, model, compiling, failed, again, meanwhile = WORDS[language]
    with contextlib.closing(Window(chromium, preparing.url, language, (1440, 900))) as window:
        page = window.page
        in_chat, in_model = page.locator("#tx-chat-prepare"), page.locator("#tx-model-prepare")
        expect(in_chat).to_contain_text(compiling, timeout=PIP_MILLISECONDS)
        expect(in_chat).to_contain_text(meanwhile)
        window.tab(model)
        expect(in_model).to_contain_text(compiling)
        index.fail_with("c++: fatal error: Killed signal terminated program cc1plus")
        index.allow(8)
        expect(in_model).to_contain_text(failed, timeout=PIP_MILLISECONDS)
        window.tab(chat)
        expect(in_chat).to_contain_text(failed)
        (index.folder / "failure").unlink()
        in_chat.get_by_role("button", name=again).click()
        expect(page.locator("#tx-pill .tx-ready")).to_be_visible(timeout=PIP_MILLISECONDS)
        expect(in_chat).to_be_hidden()
        expect(page.locator("#tx-pill")).to_contain_text("llama.cpp")
