"""The llamacpp_HF creator in the page: a GGUF file gets its tokenizer beside it, and the menu its new name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.conftest import opened
from tests.downloading import until
from tests.hub_server import Hub

REPO, NAME = "user/model", "model.gguf"
TAKEN = ("config.json", "tokenizer.json", "tokenizer_config.json")


def stacked(page: Page, width: int) -> bool | None:
    """Whether the two fields are one below the other; None if they are not within the page."""
    found = [page.locator(f"#tx-creator-{each}").bounding_box() for each in ("model", "address")]
    boxes = [box for box in found if box and box["x"] >= 0 and box["x"] + box["width"] <= width]
    return boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"] if len(boxes) == 2 else None


@pytest.mark.parametrize(("language", "width"), [("zh", 1440), ("en", 390)])
def test_a_model_is_moved_to_its_tokenizer_and_loads_with_llamacpp_hf(
    chromium: Browser, tmp_path: Path, smollm2: Path, smollm2_folder: Path, language: str, width: int
) -> None:
    (tmp_path / "models").mkdir()
    shutil.copy(smollm2, tmp_path / "models" / NAME)
    (tmp_path / "settings.yaml").touch()
    said = {"zh": ("模型", "已创建", "无法识别"), "en": ("Model", "Created", "Can't read")}[language]
    with Hub() as hub:
        hub.add(REPO, {each: smollm2_folder / each for each in TAKEN})
        with opened(chromium, tmp_path, "n_ctx", language, width, "--hf-endpoint", hub.url) as window:
            page = window.page
            page.locator("#tx-creator > button").click()
            until(lambda: page.wait_for_timeout(50) or stacked(page, width) == (width < 640))  # the fold is opening
            window.choose("tx-creator-model", NAME)
            address = page.locator("#tx-creator-address").get_by_role("textbox")
            address.fill("nonsense")
            page.locator("#tx-creator-submit").click()
            expect(page.locator("#tx-creator-result")).to_contain_text(said[2])
            address.fill(REPO)
            page.locator("#tx-creator-submit").click()
            moved = f"model-HF/{NAME}"
            expect(page.locator("#tx-creator-result")).to_contain_text(f"{said[1]}", timeout=30_000)
            page.screenshot(path=tmp_path / "creator.png", full_page=True)
            expect(page.locator("#tx-model input")).to_have_value(moved)
            expect(page.locator("#tx-marks [data-marks]")).to_have_attribute("data-model", moved)
            page.locator("#tx-load").click()
            window.loaded()
            expect(page.locator("#tx-pill .tx-ready")).to_contain_text("llamacpp_HF")
