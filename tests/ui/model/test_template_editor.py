"""Event handlers of the template editor, called as any client can call them."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.chat import renderer
from modules.chat.templates import ALPACA
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.model.tab import ModelTab
from modules.ui.model.template_editor import TemplateEditor
from tests.support import echo_plans
from tests.support.gguf_files import MODEL, gguf
from tests.support.page_parts import AsCalled, followers, page_parts
from tests.support.template_table import CHATML

gr = gradio()
NAME = "tiny.gguf"
MINE = "MINE {{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"


@pytest.fixture
def make_editor(tmp_path: Path, make_app: Callable[..., App]) -> Callable[..., Any]:
    (tmp_path / "models").mkdir(exist_ok=True)
    header = {**MODEL, "tokenizer.chat_template": CHATML}
    (tmp_path / "models" / NAME).write_bytes(gguf(header))
    (tmp_path / "models" / "plain.gguf").write_bytes(gguf({k: v for k, v in MODEL.items() if "template" not in k}))

    def make(*arguments: str, language: str = "en") -> Any:
        app = make_app(*arguments)
        with page_parts() as blocks:
            page = Page(app, language)
            tab = ModelTab(page, followers())
            editor = TemplateEditor(page, tab, gr.Textbox())
            editor.follow_menu(tab)
        parts: Any = AsCalled(blocks, editor)
        parts.app, parts.model, parts.negative = app, tab.card.model, editor._negative_prompt
        return parts

    return make


@pytest.fixture
def editor(make_editor: Callable[..., Any]) -> Any:
    return make_editor()


def values(editor: Any, model: object = NAME, **changes: object) -> dict[Any, Any]:
    """Return what the browser sends: the fold as it is before the first opening, with `changes`."""
    sent = {"choice": "", "name": "", "source": "", "shown": None, "system": True, "thinking": True, "tools": False}
    return {editor.model: model, **{getattr(editor, key): value for key, value in {**sent, **changes}.items()}}


def opened(editor: Any, model: str = NAME, **changes: object) -> dict[Any, Any]:
    """Return what the browser sends once the fold shows the template of `model`, with `changes`."""
    updates = editor.open(values(editor, model))
    shown = {key: updates[getattr(editor, key)] for key in ("name", "source", "shown")}
    return values(editor, model, **{**shown, "choice": updates[editor.choice]["value"], **changes})


def labels(updates: dict[Any, Any], editor: Any) -> list[str]:
    return [label for label, _ in updates[editor.choice]["choices"]]


def test_the_template_of_a_picked_model_is_shown_with_a_preview(editor: Any) -> None:
    updates = editor.open(values(editor))
    assert f"{NAME} uses the template in its own files" in updates[editor.state]
    assert updates[editor.source] == CHATML and updates[editor.name] == "tiny"
    assert labels(updates, editor)[0] == "The model's own"
    preview = updates[editor.preview]
    assert "<mark>&lt;|im_start|&gt;</mark>user\nHow much is 17 × 3?" in preview
    assert "Load the model to count its tokens" in preview


def test_the_preview_is_in_the_language_of_the_page(make_editor: Callable[..., Any]) -> None:
    chinese = make_editor(language="zh")
    updates = chinese.open(values(chinese))
    assert "17 × 3 等于多少？" in updates[chinese.preview] and "自带的模板" in updates[chinese.state]


def test_the_tokens_of_a_loaded_model_are_counted(editor: Any) -> None:
    plan = dataclasses.replace(echo_plans.plan(), record=editor.app.record(NAME))
    model = editor.app.models.load(plan)
    preview = editor.open(values(editor))[editor.preview]
    text = preview.partition(">")[2].partition("<")[0]
    assert "tokens. Special tokens are marked." in text
    assert int(text.split(": ")[1].split()[0]) > 10 and model.ask("count", text="") == 0


def test_the_built_in_format_is_named(editor: Any) -> None:
    updates = editor.open(values(editor, "plain.gguf"))
    assert "built-in Alpaca format" in updates[editor.state]
    assert updates[editor.source] == ALPACA and labels(updates, editor)[0] == "Built in: Alpaca"


def test_a_changed_template_is_saved_as_a_file_and_used_by_this_model_alone(editor: Any) -> None:
    updates = editor.use(opened(editor, name="Mine", source=MINE))
    assert f"{NAME} now uses “Mine”" in updates[editor.line]
    assert f"{NAME} uses “Mine”, which was chosen for it" in updates[editor.state]
    app = editor.app
    assert app.instruction_templates.read("Mine") == MINE
    assert app.templates.of(app.record(NAME)).source == MINE
    assert app.templates.of(app.record("plain.gguf")).is_ours
    updates = editor.use_own(opened(editor))
    assert "uses the template in its own files" in updates[editor.state] and updates[editor.source] == CHATML
    assert app.instruction_templates.names() == ["Mine"], "the file stays"


def test_a_file_of_the_menu_is_shown_and_chosen_without_saving_it_again(editor: Any) -> None:
    files = editor.app.instruction_templates
    files.save("Mine", MINE)
    updates = editor.pick(values(editor, choice="Mine"))
    assert updates[editor.source] == MINE and updates[editor.name] == "Mine"
    assert "<mark>&lt;s&gt;</mark>" in updates[editor.preview], "bos_token is the model's"
    written = (files.folder / "Mine.jinja").stat().st_mtime_ns
    editor.use(values(editor, choice="Mine", source=MINE, name="another name"))
    assert files.names() == ["Mine"] and (files.folder / "Mine.jinja").stat().st_mtime_ns == written
    assert editor.app.template_choices.chosen(NAME) == "Mine"


def test_another_file_is_not_overwritten(editor: Any) -> None:
    editor.app.instruction_templates.save("Mine", MINE)
    updates = editor.save(opened(editor, name="Mine", source="changed"))
    assert "already taken" in updates[editor.line]
    assert editor.app.instruction_templates.read("Mine") == MINE
    updates = editor.save(opened(editor, name="Mine", source="changed", choice="Mine"))
    assert "Saved: instruction-templates/Mine.jinja" in updates[editor.line]
    assert editor.app.instruction_templates.read("Mine") == "changed"


def test_a_deleted_file_is_offered_back(editor: Any) -> None:
    editor.use(opened(editor, name="Mine", source=MINE))
    updates = editor.delete(opened(editor))
    assert 'data-undo="Mine"' in updates[editor.line] and NAME in updates[editor.line]
    assert "Mine was chosen" in updates[editor.state] and 'role="alert"' in updates[editor.state]
    assert "Mine (cannot be used)" in labels(updates, editor)
    event = gr.EventData(None, {"name": "Mine"})
    updates = editor.restore(values(editor), event)
    assert updates[editor.source] == MINE and "Restored “Mine”" in updates[editor.line]
    for sent in ({"name": "never"}, {"name": 5}, None, {"name": "../x"}):
        assert 'role="alert"' in editor.restore(values(editor), gr.EventData(None, sent))[editor.line]


def test_a_model_s_own_template_cannot_be_deleted(editor: Any) -> None:
    assert "cannot be deleted" in editor.delete(opened(editor))[editor.line]


def test_a_broken_file_is_listed_with_its_fault(editor: Any) -> None:
    folder = editor.app.instruction_templates.folder
    folder.mkdir()
    (folder / "Broken.yaml").write_text("a: [\n")
    assert "Broken (cannot be used)" in labels(editor.open(values(editor)), editor)
    updates = editor.pick(values(editor, choice="Broken"))
    assert "Broken.yaml cannot be used as an instruction template: line 2" in updates[editor.line]


def test_a_broken_file_of_the_menu_can_be_replaced_by_a_template_that_works(editor: Any) -> None:
    folder = editor.app.instruction_templates.folder
    folder.mkdir()
    (folder / "Broken.yaml").write_text("a: [\n")
    updates = editor.use(values(editor, choice="Broken", name="Broken", source=MINE))
    assert f"{NAME} now uses “Broken”" in updates[editor.line]
    assert editor.app.instruction_templates.read("Broken") == MINE


def test_an_unchanged_template_of_the_model_is_used_without_a_file(editor: Any) -> None:
    editor.use(opened(editor, name="Mine", source=MINE))
    updates = editor.use(values(editor, source=CHATML))
    assert editor.app.template_choices.chosen(NAME) == "" and updates[editor.source] == CHATML
    assert updates[editor.line] == editor._page.info("template_used_own", model=NAME)
    assert editor.app.instruction_templates.names() == ["Mine"]


def test_an_error_is_shown_with_its_line(editor: Any) -> None:
    updates = editor.show_preview(opened(editor, source="a\n{% for m in messages %}\n{{ m.content | <b> }}"))
    preview = updates[editor.preview]
    assert "Line 3: expected token" in preview and "<pre>{{ m.content | &lt;b&gt; }}</pre>" in preview
    refusing = editor.show_preview(opened(editor, source="\n{{ raise_exception('<no>') }}"))[editor.preview]
    assert "Line 2: &lt;no&gt;" in refusing


def test_a_template_that_cannot_answer_is_not_chosen(editor: Any) -> None:
    for source, words in (("{{ x", "line 1"), ("constant", "leaves the user"), ("", "leaves the user")):
        updates = editor.use(opened(editor, name="Mine", source=source))
        assert words in updates[editor.line] and 'role="alert"' in updates[editor.line]
    assert editor.app.template_choices.chosen(NAME) == "" and editor.app.instruction_templates.names() == []


def test_the_sample_can_have_tools_and_no_thoughts(editor: Any) -> None:
    source = (
        "{% for m in messages %}{{ m.role }}: {{ m.reasoning_content }}{{ m.content }}\n{% endfor %}"
        "{{ tools | length if tools }}{% if enable_thinking %}<think>{% endif %}"
    )
    all_of_it = editor.show_preview(opened(editor, source=source, tools=True))[editor.preview]
    assert "system: You are" in all_of_it and "tool: 51" in all_of_it and "17 × 3 = 51." in all_of_it
    assert all_of_it.endswith("1<mark>&lt;think&gt;</mark></pre>")
    little = editor.show_preview(opened(editor, source=source, system=False, thinking=False))[editor.preview]
    assert "system:" not in little and "tool:" not in little and "17 × 3 = 51." not in little and "think" not in little


def test_unsaved_changes_survive_another_pick(editor: Any) -> None:
    changed = opened(editor, source=MINE)
    changed[editor.model] = "plain.gguf"
    updates = editor.follow(changed)
    assert editor.source not in updates and "unsaved changes" in updates[editor.line]
    assert "plain.gguf" in updates[editor.state]
    unchanged = opened(editor)
    unchanged[editor.model] = "plain.gguf"
    assert editor.follow(unchanged)[editor.source] == ALPACA


def test_nothing_is_rendered_before_the_fold_is_opened(editor: Any) -> None:
    assert editor.follow(values(editor)) == {editor.line: gr.skip()}
    assert editor.follow(opened(editor)) == {editor.line: gr.skip()}, "the same model"


def test_a_template_of_the_command_line_is_named(make_editor: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "flag.jinja").write_text(MINE)
    editor = make_editor("--chat-template-file", str(tmp_path / "flag.jinja"))
    updates = editor.open(values(editor))
    assert "flag.jinja” of --chat-template-file" in updates[editor.state] and updates[editor.source] == CHATML


def test_a_prompt_becomes_the_negative_prompt(editor: Any) -> None:
    updates = editor.send_to_negative_prompt(opened(editor))
    assert updates[editor.negative] == "<|im_start|>user\nInput<|im_end|>\n<|im_start|>assistant\n"
    assert "negative prompt" in updates[editor.line]


HOSTILE = {
    "a large power": "{{ (10 ** (10 ** 9)) % 7 }}",
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "a long text": "{{ 'a' * 10 ** 9 }}",
    "a wide number": "{{ '%0999999999d' % 1 }}",
    "a wide text": "{{ '{:>1000000000}'.format(1) }}",
    "doubled texts": "{% set n = namespace(x='a') %}{% for i in range(40) %}{% set n.x = n.x + n.x %}{% endfor %}",
    "much output": "{% for i in range(99999) %}{{ 'a' * 999 }}{% endfor %}",
    "lipsum": "{{ lipsum(n=99999) }}",
    "an endless macro": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "subclasses": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "globals": "{{ (strftime_now).__globals__['datetime'] }}",
    "a format string": "{{ '{0.__class__.__mro__}'.format('') }}",
}


@pytest.mark.parametrize("source", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_is_refused_in_time_and_the_page_stays_alive(
    editor: Any, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is shortened from 5 s to 1 s. All that is done besides takes less than a second on a quiet machine."""
    assert renderer.SECONDS + 1 <= 6
    monkeypatch.setattr(renderer, "SECONDS", 1)
    sent, ends = opened(editor, source=source), []
    editor.app.templates.close()  # the processes that were started with the usual limit

    def attack() -> None:
        began = time.monotonic()
        ends.append((editor.show_preview(sent)[editor.preview], time.monotonic() - began))

    thread = threading.Thread(target=attack)
    thread.start()
    assert editor.open(values(editor, "plain.gguf"))[editor.source] == ALPACA, "the page answers meanwhile"
    thread.join()
    preview, seconds = ends[0]
    assert "tx-alert" in preview and seconds < 4
    assert "im_start" in editor.show_preview(opened(editor))[editor.preview]


def test_whatever_the_browser_sends_is_refused_in_words(editor: Any, subtests: pytest.Subtests) -> None:
    handlers = (editor.open, editor.pick, editor.use, editor.use_own, editor.save, editor.delete)
    for model in (None, "", 5, ["a"], "../x", "no such model"):
        for handler in handlers:
            with subtests.test(f"{model!r} {handler.__name__}"):
                assert 'role="alert"' in handler(values(editor, model))[editor.line]
    for junk in (5, None, ["a"], {"a": 1}, "../x", "\ud800"):
        sent = values(editor, choice=junk, name=junk, source=junk, shown=junk, system=junk, thinking=junk, tools=junk)
        for handler in handlers:
            with subtests.test(f"{junk!r} {handler.__name__}"):
                assert handler(sent)
    assert editor.app.instruction_templates.names() == []


def test_guests_cannot_use_the_editor(make_editor: Callable[..., Any]) -> None:
    editor = make_editor("--multi-user")
    for handler in (editor.open, editor.pick, editor.use, editor.use_own, editor.save, editor.delete):
        assert "only its owner" in handler(values(editor, name="x", source=CHATML))[editor.line]
    assert "only its owner" in editor.show_preview(values(editor))[editor.preview]
    assert editor.app.instruction_templates.names() == []
