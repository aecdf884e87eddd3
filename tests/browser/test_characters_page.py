"""The Characters page: gallery, editor, lorebook, personas, and how a chat with a character begins."""

from __future__ import annotations

import contextlib
import copy
import json
import re
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect

from modules.characters import png
from modules.characters.library import CharacterLibrary
from modules.characters.personas import Personas
from tests.browser.conftest import Server, Window
from tests.browser.test_shell_page import SMALL, check_accessibility
from tests.support.cards import V2, V3, png_file, text_chunk

HOSTILE = "<img src=x onerror=alert(1)>${alert(1)}{{constructor}}"


def card(page: Page, id: str) -> Locator:
    return page.locator(f'.tx-ch-card[data-id="{id}"]')


def fits(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_a_character_is_added_edited_and_talked_to(chromium: Browser, kept: Server, tmp_path: Path) -> None:
    library = CharacterLibrary(tmp_path / "characters")
    with contextlib.closing(Window(chromium, kept.url, "zh", (1440, 900))) as window:
        page = window.page
        window.tab("角色")
        page.get_by_role("button", name="添加示例角色").click()
        card(page, "阿岑").locator("a").press("Enter")
        page.get_by_label("名称", exact=True).fill("岑岑")
        page.locator(".tx-ch-back").click()  # not saved yet
        page.get_by_role("button", name="继续编辑").click()
        expect(page.get_by_label("名称", exact=True)).to_have_value("岑岑")
        window.tab("聊天")
        window.tab("角色")  # what was typed is still there
        expect(page.get_by_label("名称", exact=True)).to_have_value("岑岑")
        page.get_by_role("button", name="添加备选问候").click()
        page.get_by_role("textbox", name="备选问候 2").fill(HOSTILE)
        page.keyboard.press("Control+s")
        expect(page.locator(".tx-ch-status")).to_have_text("已保存")
        assert library.read("阿岑").greetings[2] == HOSTILE
        page.get_by_label("背景").fill("一只会说话的猫。")
        page.get_by_role("button", name="聊天", exact=True).click()  # saves
        expect(page.locator("#tx-messages .tx-bot")).to_contain_text("门上的铃铛")
        assert library.read("阿岑").context == "一只会说话的猫。"
        window.tab("角色")
        card(page, "阿岑").get_by_label("“岑岑”的操作").click()
        with page.expect_download() as download:
            page.get_by_role("menuitem", name="导出为 PNG 角色卡").click()
        assert png.read_card(download.value.path().read_bytes())["data"]["name"] == "岑岑"


def test_cards_are_imported_deleted_and_brought_back_on_a_phone(
    chromium: Browser, kept: Server, tmp_path: Path
) -> None:
    hostile = copy.deepcopy(V2)
    hostile["data"]["name"] = HOSTILE
    files = {
        "ada.png": png_file(text_chunk("ccv3", V3)),
        "no.png": png_file(),
        "x.json": json.dumps(hostile).encode(),
        "x.png": png_file(),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with contextlib.closing(Window(chromium, kept.url, "en", (390, 844))) as window:
        page = window.page
        window.tab("Characters")
        with page.expect_file_chooser() as chooser:
            page.get_by_role("button", name="Import", exact=True).click()
        chooser.value.set_files([tmp_path / name for name in files])
        expect(page.locator(".tx-ch-card")).to_have_count(2)
        expect(page.locator("#tx-toasts")).to_contain_text("no.png was not imported: the picture has no character card")
        expect(page.locator(".tx-ch-card strong").first).to_have_text(HOSTILE)
        expect(page.locator(".tx-ch-card img")).to_have_count(2)  # x.png belongs to x.json
        assert fits(page)
        assert page.evaluate(SMALL, 44) == []
        check_accessibility(page)
        page.get_by_label("Search characters").fill("countess")
        expect(page.locator(".tx-ch-card")).to_have_count(1)
        card(page, "Countess").get_by_label("Actions for Countess").click()
        page.get_by_role("menuitem", name="Delete").click()
        expect(page.get_by_text("Nothing found.")).to_be_visible()
        page.get_by_role("button", name="Undo").last.click()
        card(page, "Countess").locator("a").click()
        page.locator("summary", has_text="Lorebook").click()
        page.locator(".tx-lore summary").click()
        page.get_by_label("Keys").fill("engine, loom")
        page.get_by_label("Always added").check()
        assert fits(page) and page.evaluate(SMALL, 32) == []
        check_accessibility(page)
        page.get_by_role("button", name="Save").click()
        expect(page.locator(".tx-ch-status")).to_have_text("Saved")
        entry = CharacterLibrary(tmp_path / "characters").read("Countess").lorebook.entries[0]
        assert (entry.keys, entry.constant, entry.raw["extensions"]) == (("engine", "loom"), True, {"depth": 4})


def test_a_persona_is_written_and_its_changes_are_not_lost(chromium: Browser, kept: Server, tmp_path: Path) -> None:
    with contextlib.closing(Window(chromium, kept.url, "en", (1440, 900), "dark")) as window:
        page = window.page
        window.tab("Characters")
        page.get_by_role("link", name="Personas").click()
        page.get_by_role("button", name="New persona").click()
        page.get_by_label("Name", exact=True).fill("Ann")
        page.get_by_label("Description").fill("A pilot.")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Keep editing").click()
        page.get_by_label("Description").press("Tab")
        release = window.hold_answers("/personas/save")
        with page.expect_response(re.compile("/personas/save")):
            page.locator(".tx-persona-dialog").get_by_role("button", name="Save").dblclick()
        page.get_by_label("Description").fill("A pilot. Flies at night.")
        release()
        expect(page.locator(".tx-persona")).to_have_count(1)
        expect(page.get_by_label("Description")).to_have_value("A pilot. Flies at night.")
        page.locator(".tx-persona-dialog").get_by_role("button", name="Save").click()
        expect(page.locator(".tx-persona")).to_contain_text("A pilot. Flies at night.")
        assert Personas(tmp_path / "users").read("Ann").bio == "A pilot. Flies at night."
        check_accessibility(page)
        page.get_by_role("button", name="Delete “Ann”").click()
        expect(page.locator(".tx-persona")).to_have_count(0)
        page.get_by_role("button", name="Recently deleted (1)").last.click()
        page.get_by_role("button", name="Restore “Ann”").click()
        page.get_by_role("button", name="Close", exact=True).click()
        expect(page.locator(".tx-persona")).to_contain_text("Ann")
