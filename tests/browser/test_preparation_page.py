"""The page while llama.cpp is compiled: progress, a failure with its remedy, and the model loaded afterwards.

The texts in both languages are tested in tests/setup/test_preparation.py and tests/ui/test_preparation_notice.py.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.conftest import Server, Window


def allow(folder: Path, steps: int) -> None:
    """Let the compilation do that many of its eight steps."""
    (folder / "allowed.part").write_text(str(steps))
    (folder / "allowed.part").replace(folder / "allowed")


@pytest.fixture
def preparing(tmp_path: Path, smollm2: Path) -> Iterator[Server]:
    """A server that has just begun to compile, and will then load the demo model."""
    (tmp_path / "models").mkdir()
    (tmp_path / "overlays").mkdir()
    (tmp_path / "models" / smollm2.name).symlink_to(smollm2)
    (tmp_path / "requirements-of-test.txt").write_text("compiled==1.0\n")
    (tmp_path / "settings.yaml").touch()
    allow(tmp_path, 3)
    command = [sys.executable, "-m", "tests.support.preparing_server", str(tmp_path)]
    running = Server(
        tmp_path, "--prepare", "--model", smollm2.name, "--settings", str(tmp_path / "settings.yaml"), program=command
    )
    yield running
    running.stop()


def test_the_page_shows_progress_failure_and_success_of_the_preparation(
    chromium: Browser, preparing: Server, tmp_path: Path
) -> None:
    with contextlib.closing(Window(chromium, preparing.url, "zh", (1440, 900))) as window:
        page = window.page
        in_chat, in_model = page.locator("#tx-chat-prepare"), page.locator("#tx-model-prepare")
        expect(in_chat).to_contain_text("正在编译 llama.cpp：3/8")
        expect(in_chat).to_contain_text("其间")
        window.tab("模型")
        expect(in_model).to_contain_text("正在编译 llama.cpp：3/8")
        (tmp_path / "failure").write_text("c++: fatal error: Killed signal terminated program cc1plus")
        allow(tmp_path, 8)
        expect(in_model).to_contain_text("内存不足")
        window.tab("聊天")
        expect(in_chat).to_contain_text("内存不足")
        (tmp_path / "failure").unlink()
        in_chat.get_by_role("button", name="重试").click()
        window.loaded()
        expect(in_chat).to_be_hidden()
        expect(page.locator("#tx-pill")).to_contain_text("llama.cpp")
