"""The chat as users meet it: what is written stays, whatever happens to the page, the tab or the server."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Route, expect

from tests.browser.conftest import Server, Window, kept_open
from tests.browser.test_page import LONG, QUESTION, prepare_chat
from tests.support.pictures import picture

HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)} {{constructor}} [a](javascript:alert(1)) <script>alert(1)</script>"


@pytest.fixture
def window(chromium: Browser, server: Server) -> Iterator[Window]:
    """A desktop window in Chinese with the model loaded and a new conversation."""
    with kept_open(chromium, server) as (window, _):
        prepare_chat(window, 60)
        window.new_chat()
        yield window


def last_answer(window: Window) -> Locator:
    return window.page.locator(".tx-msg.tx-bot").last


def body(message: Locator) -> Locator:
    return message.locator(".tx-body")


def answered(window: Window, question: str = QUESTION) -> Locator:
    """Ask, and return the finished answer."""
    window.ask(question)
    window.wait_for_answer()
    return last_answer(window)


def act(window: Window, message: Locator, action: str) -> None:
    message.hover()
    message.locator(f"[data-act={action}]").click()


def write_answer(window: Window, text: str) -> Locator:
    """Let the last answer say `text`, by editing it."""
    answer = last_answer(window)
    act(window, answer, "edit")
    answer.locator("textarea").fill(text)
    answer.locator("[data-edit=save]").click()
    expect(answer.locator("textarea")).to_have_count(0)
    return answer


def test_a_conversation_survives_reload_language_switch_and_a_second_tab(window: Window) -> None:
    text = body(answered(window)).inner_text()
    assert "Paris" in text
    window.page.reload()
    expect(body(last_answer(window))).to_have_text(text)
    window.page.locator("#tx-language").click()
    expect(window.page.locator("html")).to_have_attribute("lang", "en")
    expect(body(last_answer(window))).to_have_text(text)
    second = window.context.new_page()
    second.goto(window.page.url)
    expect(second.locator(".tx-msg.tx-bot .tx-body").last).to_have_text(text)
    second.close()
    window.page.locator("#tx-language").click()
    expect(window.page.locator("html")).to_have_attribute("lang", "zh-CN")


def test_answering_again_adds_a_version_and_the_arrows_lead_back(window: Window) -> None:
    first = answered(window, "Write one word.")
    before = body(first).inner_text()
    act(window, first, "again")
    window.wait_for_answer()
    answer = last_answer(window)
    expect(answer.locator(".tx-version")).to_have_text("2/2")
    act(window, answer, "previous")
    expect(last_answer(window).locator(".tx-version")).to_have_text("1/2")
    expect(body(last_answer(window))).to_have_text(before)
    window.page.locator("#tx-input").press("ArrowRight")
    expect(last_answer(window).locator(".tx-version")).to_have_text("2/2")


def test_a_conversation_has_one_run_and_stop_stays_until_it_has_ended(window: Window) -> None:
    window.set_parameter("max_new_tokens", "1500")
    window.ask(LONG)
    expect(body(last_answer(window))).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    window.page.keyboard.press("Control+Enter")  # answer again, while the answer is being written
    expect(window.page.locator("#tx-chat-line [role=alert]")).to_be_visible()
    expect(window.answers).to_have_count(1)
    expect(window.page.locator("#tx-stop")).to_be_visible()
    window.page.keyboard.press("Escape")
    window.wait_for_answer()
    written = body(last_answer(window)).inner_text()
    window.page.wait_for_timeout(500)
    assert body(last_answer(window)).inner_text() == written, "nothing is written after the stop"


def test_an_answer_goes_on_when_its_tab_is_closed(window: Window) -> None:
    window.set_parameter("max_new_tokens", "200")
    window.ask(LONG)
    expect(body(last_answer(window))).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    address = window.page.url
    shown = len(body(last_answer(window)).inner_text())
    window.page.goto("about:blank")
    window.page.goto(address)
    expect(body(last_answer(window))).to_be_visible()
    window.wait_for_answer()
    assert len(body(last_answer(window)).inner_text()) > shown


def test_a_question_is_edited_in_a_box_as_wide_as_the_chat(window: Window) -> None:
    answered(window, "Name the capital of Italy in one English sentence.")
    question = window.page.locator(".tx-msg.tx-user").last
    act(window, question, "edit")
    box = question.locator("textarea")
    width = box.bounding_box()["width"]
    assert width > 0.9 * window.page.locator("#tx-messages").bounding_box()["width"]
    box.fill("nothing")
    box.press("Escape")
    expect(body(question)).to_contain_text("Italy")
    act(window, question, "edit")
    question.locator("textarea").fill(QUESTION)
    question.locator("[data-edit=again]").click()
    window.wait_for_answer()
    expect(body(last_answer(window))).to_contain_text("Paris")
    question = window.page.locator(".tx-msg.tx-user").last
    expect(question.locator(".tx-version")).to_have_text("2/2")
    act(window, question, "previous")
    expect(body(last_answer(window))).to_contain_text("Rome")


def test_an_answer_is_edited_in_place_and_continued_byte_for_byte(window: Window) -> None:
    answered(window)
    answer = write_answer(window, "The capital of France is")
    act(window, answer, "more")
    window.wait_for_answer()
    expect(body(last_answer(window))).to_contain_text(re.compile("^The capital of France is.*Paris"))


def test_math_code_and_tables_are_drawn_and_hostile_text_is_shown_as_text(window: Window) -> None:
    answered(window)
    alerts: list[str] = []
    window.page.on("dialog", lambda dialog: (alerts.append(dialog.message), dialog.dismiss()))
    answer = write_answer(
        window,
        r"\(a^2\) $b^2$ \[c^2\] $$d^2$$ costs $5 and $6"
        f"\n\n```python\nprint(1)  # {'long ' * 40}\n```\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n" + HOSTILE,
    )
    expect(answer.locator("math")).to_have_count(4)
    expect(answer).to_contain_text("costs $5 and $6")
    expect(answer.locator("pre")).to_contain_text("print(1)")
    expect(answer.locator(".tx-copy-code")).to_be_visible()
    overflow = "pre => pre.scrollWidth - pre.clientWidth"
    assert answer.locator("pre").evaluate(overflow) > 0
    answer.get_by_role("button", name="自动换行").click()
    assert answer.locator("pre").evaluate(overflow) == 0
    answer.get_by_role("button", name="不换行").click()
    expect(answer.locator("table td").last).to_have_text("2")
    expect(answer.locator("table td").last).to_have_css("text-align", "right")
    for text in ("<img src=x onerror=alert(1)>", "${alert(1)}", "{{constructor}}", "<script>alert(1)</script>"):
        expect(answer).to_contain_text(text)
    assert answer.locator("img, script, a[href^='javascript']").count() == 0
    assert not alerts


def test_a_thought_is_folded_kept_apart_and_stays_folded(window: Window) -> None:
    window.page.locator("#tx-start-box summary").click()
    window.page.locator("#tx-start-with").fill("<think>France is a country.</think>The capital")
    answer = answered(window)
    thought = answer.locator("details.tx-thought")
    expect(thought).to_have_attribute("open", re.compile(".*")) if thought.get_attribute("open") else None
    expect(thought.locator("summary")).to_contain_text("思考")
    expect(answer.locator(".tx-thoughts")).not_to_be_visible()
    expect(body(answer)).not_to_contain_text("France is a country")
    thought.locator("summary").click()
    expect(answer.locator(".tx-thoughts")).to_contain_text("France is a country.")
    answered(window, "Thanks.")
    first = window.page.locator(".tx-msg.tx-bot").first
    expect(first.locator("details.tx-thought")).to_have_count(1)
    expect(first.locator(".tx-thoughts")).to_be_visible()


def test_a_reader_who_scrolled_up_is_left_alone_while_an_answer_is_written(window: Window) -> None:
    answered(window)
    write_answer(window, "\n\n".join(f"line {number}" for number in range(80)))
    window.set_parameter("max_new_tokens", "200")
    window.ask(LONG)
    expect(body(last_answer(window))).to_contain_text(re.compile(r"\w+ \w+"))
    scroller = window.page.locator("#tx-transcript")
    scroller.hover()
    window.page.mouse.wheel(0, -3000)
    window.page.wait_for_timeout(400)
    top = scroller.evaluate("element => element.scrollTop")
    window.page.wait_for_timeout(1500)
    assert abs(scroller.evaluate("element => element.scrollTop") - top) < 5
    to_bottom = window.page.locator("#tx-to-bottom")
    to_bottom.hover()
    expect(to_bottom).not_to_have_css("background-color", re.compile("rgba"))  # no text shines through it
    to_bottom.click()
    expect(window.page.locator("#tx-to-bottom")).to_be_hidden()
    window.wait_for_answer()


def test_what_is_typed_is_kept_until_it_is_sent(window: Window) -> None:
    window.page.locator("#tx-input").fill("half a question")
    window.page.reload()
    expect(window.page.locator("#tx-input")).to_have_value("half a question")
    window.page.locator("#tx-input").fill("")


def test_the_context_meter_counts_what_would_be_sent(window: Window) -> None:
    meter = window.page.locator("#tx-meter")
    window.page.locator("#tx-input").fill("one two three")
    expect(meter).to_contain_text(re.compile(r"\d+ / 2,048"))
    before = int(meter.inner_text().split("/")[0].replace(",", ""))
    window.page.locator("#tx-input").fill("one two three " * 100)
    expect(meter).to_contain_text(re.compile(r"[34]\d\d / 2,048"))
    assert before < 100
    window.page.locator("#tx-input").fill("")


def test_a_line_shows_where_the_memory_of_the_model_begins(window: Window) -> None:
    window.set_parameter("truncation_length", "300")
    window.set_parameter("max_new_tokens", "20")
    for number in range(4):
        answered(window, f"Question {number}: " + "word " * 60)
    expect(window.page.locator(".tx-memory-line")).to_have_count(1)
    expect(window.page.locator(".tx-memory-line")).to_contain_text("模型已看不到以上消息")
    window.set_parameter("truncation_length", "2048")


def test_the_receipt_shows_the_prompt_and_repeats_the_answer(window: Window) -> None:
    window.set_parameter("temperature", "1")
    text = body(answered(window, "Write a sentence about the sea.")).inner_text()
    act(window, last_answer(window), "receipt")
    sheet = window.page.locator("dialog.tx-sheet")
    sheet.locator("summary").click()
    expect(sheet.locator("pre")).to_contain_text("Write a sentence about the sea.")
    expect(sheet).to_contain_text("随机种子")
    sheet.locator(".tx-primary").click()
    window.wait_for_answer()
    expect(last_answer(window).locator(".tx-version")).to_have_text("2/2")
    expect(body(last_answer(window))).to_have_text(text)
    window.set_parameter("temperature", "0")


def test_a_message_is_removed_and_a_branch_begins_a_conversation(window: Window) -> None:
    answered(window)
    answered(window, "Thanks.")
    address = window.page.url
    act(window, window.page.locator(".tx-msg.tx-bot").first, "branch")
    expect(window.page.locator(".tx-msg")).to_have_count(2)
    assert window.page.url != address
    act(window, last_answer(window), "remove")
    window.page.locator(".tx-danger").click()
    expect(window.page.locator(".tx-msg")).to_have_count(1)
    window.page.goto(address)
    expect(window.page.locator(".tx-msg")).to_have_count(4)


def test_a_change_in_another_tab_is_shown_and_an_older_state_changes_nothing(window: Window) -> None:
    answered(window)
    second = window.context.new_page()
    second.goto(window.page.url)
    expect(second.locator(".tx-msg")).to_have_count(2)
    write_answer(window, "changed here")
    expect(second.locator(".tx-msg.tx-bot .tx-body")).to_have_text("changed here")
    second.close()


def test_a_text_file_is_sent_with_a_message(window: Window, tmp_path: Path) -> None:
    (tmp_path / "说明.txt").write_text("The secret word is lighthouse.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0\0")
    picker = window.page.locator("#tx-composer input[type=file]")
    picker.set_input_files(tmp_path / "picture.png")
    expect(window.page.locator("#tx-chat-line [role=alert]")).to_contain_text("picture.png")
    picker.set_input_files(tmp_path / "说明.txt")
    expect(window.page.locator("#tx-attached li")).to_contain_text("说明.txt")
    answered(window, "What is the secret word?")
    question = window.page.locator(".tx-msg.tx-user").last
    expect(question.locator(".tx-files")).to_contain_text("说明.txt")
    act(window, last_answer(window), "receipt")
    sheet = window.page.locator("dialog.tx-sheet")
    sheet.locator("summary").click()
    expect(sheet.locator("pre")).to_contain_text("The secret word is lighthouse.")
    window.page.keyboard.press("Escape")


def test_a_killed_worker_leaves_the_text_and_its_error_below(window: Window, server: Server) -> None:
    window.set_parameter("max_new_tokens", "1500")
    window.ask(LONG)
    expect(body(last_answer(window))).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    os.kill(server.worker(), signal.SIGKILL)
    expect(window.page.locator(".tx-run-error [role=alert]")).to_contain_text("SIGKILL")
    expect(window.page.locator("#tx-pill .tx-failed")).to_be_visible()
    expect(body(last_answer(window))).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    expect(window.page.locator("#tx-send")).to_be_visible()
    expect(window.page.locator("#tx-chat-first")).to_be_hidden()
    window.page.get_by_role("button", name="重新加载", exact=True).click()
    window.loaded()
    expect(window.page.locator(".tx-run-error")).to_have_count(0)
    window.page.reload()
    expect(body(last_answer(window))).to_contain_text(re.compile(r"\w+ \w+ \w+"))
    expect(window.page.locator(".tx-run-error")).to_have_count(0)


@pytest.mark.parametrize("language", ["zh", "en"])
@pytest.mark.parametrize("size", [(1440, 900), (390, 844)], ids=["desktop", "phone"])
def test_a_conversation_in_each_language_and_size(
    chromium: Browser, server: Server, language: str, size: tuple[int, int]
) -> None:
    with kept_open(chromium, server, language, size) as (window, _):
        prepare_chat(window, 40)
        window.new_chat()
        answered(window)
        expect(window.facts.last).to_contain_text("词符/秒" if language == "zh" else "tok/s")
        write_answer(window, r"\(a^2\) and $b$" + "\n\n```python\nprint(1)\n```")
        expect(last_answer(window).locator("math")).to_have_count(2)
        act(window, last_answer(window), "again")
        window.wait_for_answer()
        expect(last_answer(window).locator(".tx-version")).to_have_text("2/2")
        question = window.page.locator(".tx-msg.tx-user").last
        act(window, question, "edit")
        width = question.locator("textarea").bounding_box()["width"]
        assert width > 0.9 * window.page.locator("#tx-messages").bounding_box()["width"]
        question.locator("textarea").press("Escape")
        text = body(last_answer(window)).inner_text()
        window.page.reload()
        expect(body(last_answer(window))).to_have_text(text)
        expect(window.page.locator("#tx-meter")).to_contain_text("/ 2,048")
        assert window.page.evaluate("document.documentElement.scrollWidth") <= size[0]
        if size[0] < 760:
            window.page.locator("#tx-open-menu").click()
        rows = window.page.locator("#tx-sidebar [aria-current=page]", has_text="Name the capital")
        expect(rows).to_have_count(1)
        if size[0] < 760:
            window.page.keyboard.press("Escape")


@pytest.mark.parametrize("size", [(390, 844), (844, 390)])
def test_the_input_is_in_view_on_a_phone(chromium: Browser, server: Server, size: tuple[int, int]) -> None:
    with kept_open(chromium, server, "en", size) as (window, new):
        if not new:
            window.new_chat()
        box = window.page.locator("#tx-text").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= size[1]
        small = window.page.evaluate(
            "() => [...document.querySelectorAll('#tx-chat button')].filter(b => b.offsetParent)"
            ".map(b => [b.id, b.offsetWidth, b.offsetHeight]).filter(([, w, h]) => w < 44 || h < 44)"
        )
        assert small == []
        assert window.page.evaluate("document.documentElement.scrollWidth") <= size[0]


def test_the_input_is_in_view_on_a_phone_held_sideways_and_at_200_percent(chromium: Browser, server: Server) -> None:
    with kept_open(chromium, server, "en", (844, 390)) as (window, _):
        page = window.page
        for width, height in ((844, 390), (720, 450)):
            page.set_viewport_size({"width": width, "height": height})
            box = page.locator("#tx-send").bounding_box()
            assert box and box["y"] + box["height"] <= height
            assert page.evaluate("document.documentElement.scrollHeight <= innerHeight")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.set_viewport_size({"width": 844, "height": 390})


def delay_requests(window: Window, part: str, milliseconds: int) -> None:
    """Let requests to addresses with `part` wait, as over a slow connection."""
    window.page.evaluate(
        """([part, milliseconds]) => {
            const send = window.fetch;
            window.fetch = async (url, options) => {
                if (String(url?.url ?? url).includes(part)) await new Promise((go) => setTimeout(go, milliseconds));
                return send(url, options);
            };
        }""",
        [part, milliseconds],
    )


def test_another_conversation_that_is_opened_while_a_question_is_sent_stays_open(window: Window) -> None:
    _, second = window.import_conversations(["灯塔", "海"])
    listed = window.page.locator("#tx-conversations .tx-entry")
    expect(window.page.locator(f"#tx-conversations [href='#chat/{second}']")).to_be_visible()
    before = listed.count()
    window.page.evaluate("id => sessionStorage.setItem(`tx-draft-${id}`, '写了一半')", second)
    delay_requests(window, "gradio_api", 1000)
    window.ask(QUESTION)
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", second)
    expect(window.page.locator(".tx-msg")).to_have_count(2)
    expect(listed).to_have_count(before + 1)
    assert window.page.url.endswith(second)
    expect(window.page.locator("#tx-input")).to_have_value("写了一半")
    expect(window.page.locator("#tx-conversations .tx-entry-running")).to_have_count(0)
    window.page.locator("#tx-input").fill("")
    window.page.reload()


def test_what_is_typed_while_a_question_is_sent_stays(window: Window) -> None:
    delay_requests(window, "gradio_api", 1000)
    window.ask(QUESTION)
    window.page.keyboard.type("然后呢")
    expect(window.page.locator(".tx-msg.tx-user")).to_have_text([QUESTION])
    expect(window.page.locator("#tx-input")).to_have_value("然后呢")
    window.wait_for_answer()
    window.page.reload()
    expect(window.page.locator("#tx-input")).to_have_value("然后呢")
    window.page.locator("#tx-input").fill("")


def test_what_is_written_while_a_reply_is_replaced_stays(window: Window) -> None:
    first, second = window.import_conversations(["灯塔", "海"])
    box = window.page.locator("#tx-input")
    window.page.evaluate("id => sessionStorage.setItem(`tx-draft-${id}`, '写了一半')", second)
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", first)
    expect(window.page.locator(".tx-msg")).to_have_count(2)
    release = window.hold_answers("/edit")
    box.fill("新回答")
    with window.page.expect_response(re.compile("/edit")):
        box.press("Control+Shift+L")
        window.page.evaluate("id => { location.hash = `#chat/${id}`; }", second)
    expect(box).to_have_value("写了一半")
    release()
    window.page.wait_for_timeout(300)
    expect(box).to_have_value("写了一半")
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", first)
    expect(body(last_answer(window))).to_have_text("新回答")
    expect(box).to_have_value("")
    box.fill("更新")
    release = window.hold_answers("/edit")
    with window.page.expect_response(re.compile("/edit")):
        box.press("Control+Shift+L")
    box.fill("更新，然后呢")
    release()
    expect(body(last_answer(window))).to_have_text("更新")
    expect(box).to_have_value("，然后呢")
    box.fill("")
    window.page.reload()


def unload(window: Window) -> None:
    window.tab("模型")
    window.page.locator("#tx-unload").click()
    expect(window.page.locator("#tx-pill .tx-empty")).to_be_visible()
    window.tab("聊天")


def test_an_edited_question_stays_in_its_box_until_a_loaded_model_answers_it(window: Window) -> None:
    answered(window)
    unload(window)
    window.page.locator("#tx-input").fill("写了一半")
    question = window.page.locator(".tx-msg.tx-user").last
    act(window, question, "edit")
    question.locator("textarea").fill("仔细改写过的问题")
    question.locator("[data-edit=again]").click()
    window.page.locator("#tx-load-and-send").click(trial=True)
    expect(question.locator("textarea")).to_have_value("仔细改写过的问题")
    window.page.locator("#tx-load-and-send").click()
    expect(window.page.locator(".tx-msg.tx-user .tx-body")).to_have_text(["仔细改写过的问题"], timeout=30_000)
    window.wait_for_answer()
    expect(window.page.locator(".tx-edit")).to_have_count(0)
    expect(window.page.locator("#tx-input")).to_have_value("写了一半")
    window.page.locator("#tx-input").fill("")


def test_a_model_that_was_loaded_for_one_conversation_sends_nothing_in_another(window: Window) -> None:
    (other,) = window.import_conversations(["灯塔"])
    unload(window)
    window.ask(QUESTION)
    window.page.locator("#tx-load-and-send").click(trial=True)
    window.page.evaluate("id => sessionStorage.setItem(`tx-draft-${id}`, '写了一半')", other)
    window.page.locator("#tx-load-and-send").click()
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", other)
    window.loaded()
    window.page.wait_for_timeout(500)
    expect(window.page.locator("#tx-input")).to_have_value("写了一半")
    expect(window.page.locator(".tx-msg")).to_have_count(2)
    window.page.locator("#tx-input").fill("")
    window.new_chat()
    window.page.locator("#tx-input").fill("")


def test_a_question_waits_for_its_files_and_both_are_kept_meanwhile(window: Window) -> None:
    (other,) = window.import_conversations(["灯塔"])
    attached = window.page.locator("#tx-attached li")
    picker = window.page.locator("#tx-composer input[type=file]")
    held: list[Route] = []
    window.page.route("**/chat/attachments*", lambda route: held.append(route))
    picker.set_input_files([{"name": "说明.txt", "mimeType": "text/plain", "buffer": b"lighthouse"}])
    expect(attached).to_have_text(["说明.txt · 正在上传…"])
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", other)
    expect(attached).to_have_count(0)
    held[0].continue_()
    window.page.unroute("**/chat/attachments*")
    window.new_chat()
    expect(attached).to_have_text(["说明.txt"])
    delay_requests(window, "/chat/attachments", 700)
    picker.set_input_files([{"name": "海.txt", "mimeType": "text/plain", "buffer": b"sea"}])
    answered(window, "What is in the files?")
    files = window.page.locator(".tx-msg.tx-user .tx-files li")
    expect(files).to_have_text([re.compile("说明.txt"), re.compile("海.txt")])
    expect(attached).to_have_count(0)
    window.page.reload()


def test_an_open_edit_box_keeps_its_text_over_other_conversations_and_a_reload(window: Window) -> None:
    first, second = window.import_conversations(["灯塔", "海"])
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", first)
    question, answer = window.page.locator(".tx-msg.tx-user"), window.page.locator(".tx-msg.tx-bot")
    for message, text in ((question, "改到一半的问题"), (answer, "A half-edited answer")):
        act(window, message, "edit")
        message.locator("textarea").fill(text)
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", second)
    expect(window.page.locator("#tx-messages")).to_contain_text("Question about 海")
    expect(window.page.locator(".tx-edit")).to_have_count(0)
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", first)
    expect(question.locator("textarea")).to_have_value("改到一半的问题")
    answer.locator("[data-edit=save]").click()
    expect(body(answer)).to_have_text("A half-edited answer")
    window.page.reload()
    expect(question.locator("textarea")).to_have_value("改到一半的问题")
    expect(answer.locator("textarea")).to_have_count(0)
    question.locator("textarea").press("Escape")
    window.page.reload()
    expect(body(question)).to_have_text("Question about 灯塔")
    expect(window.page.locator(".tx-edit")).to_have_count(0)


def test_a_double_click_or_a_held_key_answers_no_question_and_does_nothing_twice(window: Window) -> None:
    (first,) = window.import_conversations(["灯塔"])
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", first)
    delay_requests(window, "/remove", 300)
    messages = window.page.locator(".tx-msg")
    answer = last_answer(window)
    answer.hover()
    answer.locator("[data-act=remove]").dblclick()
    answer.locator(".tx-danger").focus()
    window.page.keyboard.down("Enter")
    window.page.keyboard.down("Enter")  # the same press: it repeats
    expect(messages).to_have_count(1)
    window.page.keyboard.up("Enter")
    expect(window.page.locator("#tx-chat-line")).to_be_empty()
    window.page.reload()


def test_what_is_typed_into_an_edit_box_while_it_is_saved_stays(window: Window) -> None:
    (first,) = window.import_conversations(["灯塔"])
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", first)
    answer = window.page.locator(".tx-msg.tx-bot")
    act(window, answer, "edit")
    area = answer.locator("textarea")
    area.fill("改好的回答")
    release = window.hold_answers("/edit")
    with window.page.expect_response(re.compile("/edit")):
        area.press("Control+Enter")
    area.press_sequentially("，还有一句")
    release()
    expect(area).to_have_value("改好的回答，还有一句")
    area.press("Control+Enter")
    expect(body(answer)).to_have_text("改好的回答，还有一句")
    expect(area).to_have_count(0)


def test_an_attached_picture_is_shown_again_with_its_conversation_and_after_a_reload(window: Window) -> None:
    (other,) = window.import_conversations(["灯塔"])
    unload(window)
    files = [{"name": "红.png", "mimeType": "image/png", "buffer": picture()}]
    window.page.locator("#tx-composer input[type=file]").set_input_files(files)
    preview = window.page.locator("#tx-attached img")
    expect(preview).to_have_js_property("naturalWidth", 20)
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", other)
    expect(window.page.locator("#tx-attached li")).to_have_count(0)
    window.new_chat()
    expect(preview).to_have_js_property("naturalWidth", 20)
    window.open("/")
    expect(preview).to_have_js_property("naturalWidth", 20)
    window.page.locator("#tx-attached button").click()
    expect(preview).to_have_count(0)


def test_files_that_are_too_many_are_not_left_out_silently(window: Window) -> None:
    files = [{"name": f"{number}.txt", "mimeType": "text/plain", "buffer": b"%d" % number} for number in range(11)]
    files[3]["buffer"] = b""
    window.page.locator("#tx-composer input[type=file]").set_input_files(files)
    alert = window.page.locator("#tx-chat-line [role=alert]")
    expect(alert).to_have_text("每条消息最多添加 10 个文件，多余的文件未添加。 未添加 3.txt：文件中没有文字。")
    expect(window.page.locator("#tx-attached li")).to_have_count(9)
    for _ in range(9):
        window.page.locator("#tx-attached li button").first.click()


def test_a_file_that_cannot_be_uploaded_is_refused_with_the_reason(window: Window, tmp_path: Path) -> None:
    large, gone = tmp_path / "大.bin", tmp_path / "走.txt"
    with large.open("wb") as file:
        file.truncate(33_000_000)
    gone.write_text("gone")
    window.page.route("**/chat/attachments*", lambda route: (gone.unlink(missing_ok=True), route.continue_()))
    window.page.locator("#tx-composer input[type=file]").set_input_files([large, gone])  # uploaded one after the other
    alert = window.page.locator("#tx-chat-line [role=alert]")
    expect(alert).to_contain_text(
        "未添加 大.bin：发送的内容过大，最多接受 32 MB。 无法读取 走.txt：它是文件夹，或在选择后被移动或修改。"
    )
    window.page.unroute("**/chat/attachments*")


def system_field_of(window: Window, conversation: str) -> Locator:
    """Open a conversation beside its system message, and return the field of that."""
    field = window.page.locator("#tx-system")
    if not field.is_visible():
        window.page.keyboard.press("Control+s")
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", conversation)
    expect(window.page.locator(".tx-msg")).to_have_count(2)
    return field


def test_a_system_message_that_could_not_be_stored_is_stored_once_the_server_is_reached(window: Window) -> None:
    first, second = window.import_conversations(["灯塔", "海"])
    field = system_field_of(window, first)
    window.page.route("**/system*", lambda route: route.abort())
    field.fill("只用中文回答。")
    window.page.locator("#tx-input").click()
    expect(window.page.locator("#tx-chat-line [role=alert]")).to_be_visible()
    write_answer(window, "The conversation is drawn anew.")
    expect(field).to_have_value("只用中文回答。")
    window.page.unroute("**/system*")
    with window.page.expect_response(re.compile(f"{first}/system")):
        window.page.evaluate("id => { location.hash = `#chat/${id}`; }", second)
    expect(field).to_have_value("")
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", first)
    expect(field).to_have_value("只用中文回答。")


def test_a_system_message_goes_to_the_conversation_it_was_typed_in(window: Window) -> None:
    first, second = window.import_conversations(["灯塔", "海"])
    field = system_field_of(window, first)
    field.fill("只用中文回答。")
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", second)
    window.page.wait_for_timeout(1000)
    expect(field).to_have_value("")
    window.page.evaluate("id => { location.hash = `#chat/${id}`; }", first)
    expect(field).to_have_value("只用中文回答。")
    field.fill("Answer in English.")
    window.ask(QUESTION)  # at once: the answer is not refused, and has been written with it
    window.wait_for_answer()
    expect(window.page.locator(".tx-msg")).to_have_count(4)
    act(window, last_answer(window), "receipt")
    window.page.locator("dialog.tx-sheet summary").click()
    expect(window.page.locator("dialog.tx-sheet pre")).to_contain_text("Answer in English.")
    window.page.keyboard.press("Escape")
