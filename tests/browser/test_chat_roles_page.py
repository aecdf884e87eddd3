"""Who speaks in a chat, and what writers do with it: characters, modes, personas, impersonation, dummy messages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, expect

from tests.browser.conftest import Server, Window, kept_open
from tests.browser.test_chat_page import act, body, last_answer
from tests.browser.test_page import prepare_chat

ADA = """name: Ada
context: Ada Lovelace writes programs for machines that do not exist yet. She answers {{user}} in one sentence.
greeting: Good evening, {{user}}.
alternate_greetings:
- Do you like engines, {{user}}?
- The machine is ready.
"""


@pytest.fixture(scope="module")
def roles(server: Server) -> Iterator[Path]:
    """Two characters and a persona in the folders of the server."""
    characters, personas = server.log.parent / "characters", server.log.parent / "users"
    for folder in (characters, personas):
        folder.mkdir(exist_ok=True)
    written = [characters / "Ada.yaml", characters / "Bruno.yaml", personas / "carla.yaml"]
    written[0].write_text(ADA, encoding="utf-8")
    written[1].write_text("name: Bruno\ncontext: Bruno bakes bread.\n", encoding="utf-8")
    written[2].write_text("name: Carla\nuser_bio: Carla repairs clocks.\n", encoding="utf-8")
    yield characters
    for path in written:
        path.unlink()


def open_setup(window: Window) -> Locator:
    window.page.locator("#tx-setup").click()
    return window.page.locator("#tx-setup-panel")


def pick_character(window: Window, name: str) -> None:
    open_setup(window).get_by_role("button", name=name, exact=True).click()


def choose(window: Window, item: str) -> None:
    """Choose an item of the menu beside the text."""
    window.page.locator("#tx-more").click()
    window.page.get_by_role("menuitem", name=re.compile(f"^{item}")).click()


def speakers(window: Window) -> Locator:
    return window.page.locator(".tx-speaker:visible")


def test_a_chat_with_a_character_from_its_greeting_to_a_reload(chromium: Browser, server: Server, roles: Path) -> None:
    with kept_open(chromium, server) as (window, _):
        prepare_chat(window, 16)
        window.new_chat()
        box, chip = window.page.locator("#tx-input"), window.page.locator("#tx-setup")
        expect(chip).to_have_text("instruct")
        box.fill("Who am I?")

        pick_character(window, "Ada")
        expect(box).to_have_value("Who am I?")
        expect(body(last_answer(window))).to_contain_text("Good evening")
        expect(last_answer(window).locator(".tx-version")).to_have_text("1/3")
        act(window, last_answer(window), "next")
        expect(body(last_answer(window))).to_contain_text("Do you like engines")
        expect(speakers(window)).to_have_text(["AAda"])
        expect(chip).to_have_text("AAda")
        expect(chip).to_have_attribute("aria-label", re.compile("chat-instruct"))

        open_setup(window).locator("#tx-persona").select_option("carla")
        window.page.keyboard.press("Escape")
        box.press("Enter")
        expect(window.facts.last).to_contain_text("词符/秒")
        window.wait_for_answer()
        expect(speakers(window)).to_have_text(["AAda", "CCarla", "AAda"])
        panel = open_setup(window)
        expect(panel).to_contain_text("角色不能再更换")
        panel.get_by_role("radio", name="chat", exact=True).check()
        expect(chip).to_have_attribute("aria-label", re.compile("模式：chat$"))
        window.page.keyboard.press("Escape")

        box.fill("I think")
        choose(window, "AI 帮答")
        undo = window.page.locator(".tx-put-back")
        expect(undo).to_be_visible(timeout=60_000)
        expect(box).not_to_have_value("I think")
        assert box.input_value().startswith("I think")
        undo.get_by_role("button").click()
        expect(box).to_have_value("I think")

        choose(window, "发送假消息")
        expect(body(window.page.locator(".tx-msg.tx-user").last)).to_have_text("I think")
        expect(box).to_have_value("")
        box.fill("A dummy.")
        choose(window, "触发假回复")
        expect(body(last_answer(window))).to_have_text("A dummy.")
        for repetition in range(2):
            box.fill("Replaced.")
            box.press("Control+Shift+L")
            expect(body(last_answer(window))).to_have_text("Replaced.")
            if not repetition:
                undo.get_by_role("button").click()
                expect(body(last_answer(window))).to_have_text("A dummy.")

        window.page.reload()
        expect(body(last_answer(window))).to_have_text("Replaced.")
        expect(speakers(window)).to_have_text(["AAda", "CCarla", "AAda", "CCarla", "AAda"])
        expect(chip).to_have_attribute("aria-label", re.compile("模式：chat$"))
        expect(window.page.locator("#tx-sidebar [aria-current=page] .tx-avatar")).to_have_text("A")


def test_a_character_on_a_phone(chromium: Browser, server: Server, roles: Path) -> None:
    with kept_open(chromium, server, "en", (390, 844)) as (window, _):
        prepare_chat(window, 16)
        window.new_chat()
        window.page.locator("#tx-input").fill("Nobody answers this.")
        choose(window, "Send dummy message")
        expect(window.page.locator(".tx-msg.tx-user")).to_have_count(1)
        window.new_chat()
        panel = open_setup(window)
        assert panel.bounding_box()["width"] <= 374
        panel.get_by_role("radio", name="chat", exact=True).check()
        panel.get_by_role("button", name="Ada", exact=True).click()
        expect(body(last_answer(window))).to_have_text("Good evening, You.")
        chip = window.page.locator("#tx-setup")
        expect(chip).to_have_attribute("aria-label", "Ada, mode: chat")
        assert chip.bounding_box()["height"] >= 44

        pick_character(window, "Bruno")
        expect(chip).to_have_text("BBruno")
        expect(window.page.locator(".tx-msg")).to_have_count(0)
        pick_character(window, "Ada")
        box = window.page.locator("#tx-input")
        box.fill("half a question")
        choose(window, "Copy last reply")
        expect(box).to_have_value("Good evening, You.")
        window.page.locator(".tx-put-back button").click()
        expect(box).to_have_value("half a question")
        choose(window, "Send dummy message")
        expect(window.page.locator(".tx-msg.tx-user")).to_have_count(1)
        choose(window, "Remove last")
        expect(window.page.locator(".tx-msg.tx-user")).to_have_count(0)
        expect(box).to_have_value("half a question")
        box.fill("")
        open_setup(window).get_by_role("radio", name="instruct", exact=True).check()
        expect(speakers(window)).to_have_count(0)
        window.page.keyboard.press("Escape")
        assert window.page.evaluate("document.documentElement.scrollWidth") <= 390
        choose(window, "Send to notebook")
        expect(window.page.locator("#nb-text")).to_have_value(re.compile("Good evening, You"))


THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def test_thinking_is_switched_off_for_one_model_and_stays_off(chromium: Browser, smollm2: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / smollm2.name).symlink_to(smollm2)
    (tmp_path / "models" / "config-user.yaml").write_text(f"{smollm2.name}:\n  instruction_template: Think\n")
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "Think.jinja").write_text(THINKING)
    (tmp_path / "settings.yaml").write_text("mode: chat-instruct\nstart_with: Paris\n")
    server = Server(tmp_path, "--settings", str(tmp_path / "settings.yaml"), "--model", smollm2.name)
    try:
        window = Window(chromium, server.url, "en", (1440, 900))
        window.loaded(60)
        switch = window.page.locator("#tx-variables")
        expect(switch).to_have_attribute("aria-pressed", "true")
        switch.click()
        expect(switch).to_have_text("Thinking: off")
        window.page.reload()
        expect(switch).to_have_attribute("aria-pressed", "false")
        expect(window.page.locator("#tx-setup")).to_have_attribute("aria-label", "Mode: chat-instruct")
        expect(window.page.locator("#tx-start-with")).to_have_value("Paris")
        window.ask("Name the capital of France.")
        window.wait_for_answer()
        act(window, last_answer(window), "receipt")
        sheet = window.page.locator("dialog.tx-sheet")
        sheet.locator("summary").click()
        expect(sheet.locator("pre")).to_contain_text(re.compile(r"assistant\s+<think>\s+</think>\s+Paris"))
        window.close()
    finally:
        server.stop()
