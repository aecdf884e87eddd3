"""The llamacpp_HF creator on the page: a GGUF file is moved to its tokenizer, and the menu shows its new name.

The load with llamacpp_HF that follows is tested in tests/test_llamacpp_hf_creator.py.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import opened
from tests.support.downloading import until
from tests.support.hub_server import HubServer

REPO, NAME = "user/model", "model.gguf"
DOWNLOADED = ("config.json", "tokenizer.json", "tokenizer_config.json")


def stacked(page: Page, width: int) -> bool | None:
    """Return whether the two fields are one below the other; None if they are not within the page."""
    fields = [page.locator(f"#tx-creator-{field}").bounding_box() for field in ("model", "address")]
    boxes = [box for box in fields if box and box["x"] >= 0 and box["x"] + box["width"] <= width]
    return boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"] if len(boxes) == 2 else None


def test_a_model_is_moved_to_its_tokenizer_and_selected_for_llamacpp_hf(
    chromium: Browser, tmp_path: Path, tiny: Path, tiny_folder: Path
) -> None:
    (tmp_path / "models").mkdir()
    shutil.copy(tiny, tmp_path / "models" / NAME)
    (tmp_path / "settings.yaml").touch()
    with HubServer() as hub:
        hub.add(REPO, {name: tiny_folder / name for name in DOWNLOADED})
        with opened(chromium, tmp_path, "n_ctx", "zh", 390, "--hf-endpoint", hub.url) as window:
            page = window.page
            page.locator("#tx-creator > button").click()
            until(lambda: page.wait_for_timeout(50) or stacked(page, 390))  # the fold is opening
            page.set_viewport_size({"width": 1440, "height": 900})
            until(lambda: page.wait_for_timeout(50) or stacked(page, 1440) is False)
            page.set_viewport_size({"width": 390, "height": 900})
            window.choose("tx-creator-model", NAME)
            address = page.locator("#tx-creator-address").get_by_role("textbox")
            address.fill("nonsense")
            page.locator("#tx-creator-submit").click()
            expect(page.locator("#tx-creator-result")).to_contain_text("无法识别")
            address.fill(REPO)
            page.locator("#tx-creator-submit").click()
            moved = f"model-HF/{NAME}"
            expect(page.locator("#tx-creator-result")).to_contain_text("已创建", timeout=30_000)
            page.screenshot(path=tmp_path / "creator.png", full_page=True)
            expect(page.locator("#tx-model input")).to_have_value(moved)
            expect(page.locator("#tx-marks [data-marks]")).to_have_attribute("data-model", moved)
            expect(page.locator("#tx-loader input")).to_have_value("llamacpp_HF")
