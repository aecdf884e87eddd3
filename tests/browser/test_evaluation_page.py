"""Perplexity and prices on the Training page: results stay over reloads, and options lead to their prices."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Route, expect

from tests.browser.conftest import Server, Window, kept_open

SCRIPTS = "import(performance.getEntriesByType('resource').find(({ name }) => name.includes('perplexity_table')).name)"
"""JavaScript: the module of the table, as the page has loaded it."""
MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture
def window(chromium: Browser, server: Server) -> Iterator[Window]:
    with kept_open(chromium, server) as (window, _):
        yield window


def test_an_evaluation_is_found_again_after_a_reload_and_in_the_table(window: Window) -> None:
    page = window.page
    page.evaluate("location.hash = 'training/perplexity'")
    page.get_by_role("checkbox", name=MODEL, exact=True).check()  # waits until the form is there
    others = page.locator(f'#tx-p-models input:checked:not([value="{MODEL}"])')
    if others.count():  # the loaded model
        others.uncheck()
    for key, value in (("max_length", "64"), ("stride", "64"), ("windows", "3")):
        page.locator(f"#tx-p-{key}").fill(value)
    page.locator("#tx-p-start").click()
    expect(page.locator("#tx-p-run")).to_be_visible()
    page.reload()
    expect(page.locator("#tx-p-run .tx-p-state")).to_have_text("完成")
    expect(page.locator("#tx-p-run")).to_contain_text(re.compile(r"困惑度 \d"))
    row = page.locator(".tx-p-table tbody tr").first
    expect(row).to_contain_text("rolling · 64/64")
    comment = row.get_by_role("textbox")
    page.route("**/perplexity/comments*", lambda route: route.abort())
    comment.fill("第一次")
    comment.blur()
    expect(page.locator(".tx-toast")).to_be_visible()
    page.unroute("**/perplexity/comments*")
    page.get_by_role("button", name="刷新表格").click()
    expect(page.locator(".tx-p-table tbody tr").first.get_by_role("textbox")).to_have_value("第一次")
    expect(page.locator(".tx-p-results .tx-chart").first).to_be_visible()
    page.get_by_role("searchbox", name="筛选").fill("chunks")
    expect(page.locator(".tx-p-table tbody tr")).to_have_count(0)


def test_comments_stay_as_they_are_written(chromium: Browser, kept: Server) -> None:
    (kept.log.parent / "logs").mkdir(exist_ok=True)
    table = kept.log.parent / "logs" / "evaluations.csv"
    table.write_text(
        "Model,LoRAs,Dataset,Perplexity,stride,max_length,Date,Comment\na,None,t,2,1,1,1,\nb,None,t,3,1,1,2,\n"
    )
    with contextlib.closing(Window(chromium, kept.url, "zh", (1440, 900))) as window:
        page = window.page
        page.evaluate("location.hash = 'training/perplexity'")
        comment = page.locator(".tx-p-table tr", has_text="a").get_by_role("textbox")
        saving, sort = "**/perplexity/comments*", page.locator(".tx-p-table th button").first
        held: list[Route] = []
        page.route(saving, lambda route: held.append(route))
        comment.fill("很好")
        sort.click()  # the rows are drawn again before the comment is saved
        expect(comment).to_have_value("很好")
        held[0].fulfill(status=500, json={"error": "The disk is full."})
        expect(page.get_by_text("The disk is full.")).to_be_visible()
        page.unroute(saving)
        sort.click()
        expect(comment).to_have_value("很好")
        comment.press("End")
        page.evaluate(f"{SCRIPTS}.then(({{ refresh }}) => refresh())")  # as when an evaluation has ended
        comment.press_sequentially("，再试一次")
        expect(comment).to_be_focused()
        expect(comment).to_have_value("很好，再试一次")
        with page.expect_response(re.compile("/perplexity/results")):
            page.get_by_role("button", name="刷新表格").click()
        expect(comment).to_have_value("很好，再试一次")
        assert "很好，再试一次" in table.read_text()


def test_the_button_at_an_option_opens_its_price_with_the_values_of_the_form(window: Window) -> None:
    page = window.page
    window.tab("模型")
    expect(page.locator("#tx-marks [data-marks]")).to_have_attribute("data-model", MODEL)  # the only one is picked
    page.locator("#tx-opt-n_ctx input").first.fill("1024")
    page.locator("#tx-opt-n_ctx input").first.blur()
    expect(page.locator("#tx-opt-n_ctx .tx-source")).to_have_attribute("data-source", "form")
    page.locator("#tx-opt-flash_attn .tx-price button").click()
    expect(page.locator("#tx-pc-key")).to_have_value("flash_attn")
    expect(page.locator("#tx-pc-model")).to_have_value(MODEL)
    expect(page.locator("#tx-pc-loader")).to_have_value("llama.cpp")
    expect(page.get_by_text("n_ctx=1024")).to_be_visible()
    page.locator("#tx-pc-key").select_option("n_ctx")
    expect(page.locator("#tx-pc-b")).to_have_value("1024")
    page.locator("#tx-pc-b").fill("many")
    page.locator("#tx-pc-start").click()
    expect(page.get_by_role("alert").filter(has_text="n_ctx")).to_be_visible()
