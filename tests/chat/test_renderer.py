"""The processes that render templates are kept, replaced and end with the program."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modules.chat import render_child, renderer
from modules.chat.renderer import LimitExceeded, Renderer, Rendering
from modules.core.paths import ROOT
from modules.system import limited_child
from modules.system.cancellation import Cancelled, CancelToken
from modules.system.limited_process import LimitedProcess, Limits
from tests.support.render_processes import render_processes, wait_until_ended

pytestmark = pytest.mark.usefixtures("new_processes")


def test_a_process_is_kept_for_the_next_rendering_and_replaced_when_it_has_ended() -> None:
    templates = Renderer()
    before = set(render_processes(os.getpid()))
    assert templates.render("{{ x }}", {"x": 1}, [{}, {"x": 2}]) == [Rendering("1"), Rendering("2")]
    (process,) = set(render_processes(os.getpid())) - before
    assert templates.render("{{ x }}", {}, [{"x": 3}]) == [Rendering("3")]
    assert set(render_processes(os.getpid())) - before == {process}
    os.kill(process, signal.SIGKILL)
    assert templates.render("{{ x }}", {}, [{"x": 4}]) == [Rendering("4")]
    templates.close()


def test_many_renderings_at_once_get_their_own_answers() -> None:
    templates = Renderer()
    answers: dict[int, str] = {}

    def ask(number: int) -> None:
        answers[number] = templates.render("{{ n }}", {}, [{"n": number}])[0].text

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: str(number) for number in range(12)}
    templates.close()


def test_quick_renderings_wait_for_a_process_and_long_ones_keep_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[LimitedProcess] = []

    class Counted(LimitedProcess):
        def __init__(self, program: Path, limits: Limits) -> None:
            super().__init__(program, limits)
            started.append(self)

    monkeypatch.setattr(renderer, "LimitedProcess", Counted)
    monkeypatch.setattr(renderer, "PATIENCE_SECONDS", 4.0)
    templates = Renderer()
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: templates.render("{{ 1 }}", {}, [{}]), range(100)))
    assert len(started) == renderer.KEPT_PROCESSES

    monkeypatch.setattr(renderer, "PATIENCE_SECONDS", 0.01)
    token = CancelToken()

    def render_for_ever() -> None:
        with pytest.raises(Cancelled):
            token.run(templates.render, "{{ (10 ** (10 ** 9)) % 7 }}", {}, [{}])

    long = [threading.Thread(target=render_for_ever) for _ in range(renderer.KEPT_PROCESSES)]
    for thread in long:
        thread.start()
    while templates._processes._turns < renderer.KEPT_PROCESSES:
        time.sleep(0.001)
    assert templates.render("{{ 1 }}", {}, [{}]) == [Rendering("1")]
    token.cancel()
    for thread in long:
        thread.join()
    assert len(started) == renderer.KEPT_PROCESSES + 1

    with ThreadPoolExecutor(renderer.MOST_PROCESSES) as pool:
        slow = "{% for i in range(9999) %}{% for j in range(300) %}{% endfor %}{% endfor %}"
        list(pool.map(lambda _: templates.render(slow, {}, [{}]), range(renderer.MOST_PROCESSES)))
    assert len(started) > renderer.KEPT_PROCESSES + 2
    assert len(templates._processes._idle) == renderer.KEPT_PROCESSES
    templates.close()


def test_a_crash_of_the_process_is_an_exceeded_limit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "crashing.py"
    program.write_text("import os, sys; sys.stdin.readline(); os.abort()")
    monkeypatch.setattr(renderer, "_PROGRAM", program)
    with pytest.raises(LimitExceeded, match=r"crashed the process that renders it \(exit code -6\)"):
        Renderer().render("{{ x }}", {}, [{}])


def test_a_template_that_was_stopped_is_refused_a_while_for_conversations_that_are_no_shorter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Such a template may be quick when it is probed. A missing program shows whether a rendering was tried."""
    now = [0.0]
    templates, late = Renderer(lambda: now[0]), "{% if x|length > 3 %}{{ 'a' * 10 ** 9 }}{% endif %}fine"

    def render(text: str) -> str:
        try:
            return templates.render(late, {}, [{"x": text}])[0].text
        except LimitExceeded as error:
            return str(error)

    assert render("abc") == "fine"
    assert "512 MB" in render("abcd")
    assert render("abc") == "fine", "shorter conversations are not refused"
    templates.close()
    monkeypatch.setattr(renderer, "_PROGRAM", tmp_path / "missing.py")
    now[0] = renderer.STOPPED_SECONDS - 1
    assert "512 MB" in render("abcd") and "512 MB" in render("abcde")
    assert "crashed" in render("abc")
    now[0] = 2 * renderer.STOPPED_SECONDS
    assert "crashed" in render("abcd"), "it is tried again"


def test_only_the_last_templates_that_were_stopped_are_remembered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A missing program stops every template; the usual one would render them."""
    monkeypatch.setattr(renderer, "_REMEMBERED_STOPS", 1)
    templates = Renderer()
    with monkeypatch.context() as without_program:
        without_program.setattr(renderer, "_PROGRAM", tmp_path / "missing.py")
        for template in ("first", "second"):
            with pytest.raises(LimitExceeded, match="crashed"):
                templates.render(template, {}, [{}])
    assert templates.render("first", {}, [{}]) == [Rendering("first")]
    with pytest.raises(LimitExceeded, match="crashed"):
        templates.render("second", {}, [{}])
    templates.close()


def test_a_rendering_ends_with_its_process_when_nobody_wants_it_any_more() -> None:
    templates, token, began = Renderer(), CancelToken(), time.monotonic()
    before, processes = set(render_processes(os.getpid())), set[int]()

    def leave() -> None:
        while not (started := set(render_processes(os.getpid())) - before):
            time.sleep(0.01)
        processes.update(started)
        token.cancel()

    threading.Thread(target=leave).start()
    with pytest.raises(Cancelled):
        token.run(templates.render, "{{ (10 ** (10 ** 9)) % 7 }}", {}, [{}])
    assert time.monotonic() - began < renderer.SECONDS
    for process in processes:
        wait_until_ended(process)
    with pytest.raises(Cancelled):
        token.run(templates.render, "{{ 1 }}", {}, [{}])
    assert templates.render("{{ 1 }}", {}, [{}]) == [Rendering("1")]
    templates.close()


def test_the_exit_code_of_the_child_is_the_one_of_all_children_with_limits() -> None:
    assert render_child.OUTPUT_TOO_LARGE == limited_child.OUTPUT_TOO_LARGE


@pytest.mark.parametrize("template", ["{{ x }}", "{{ (10 ** (10 ** 9)) % 7 }}"], ids=["idle", "rendering"])
def test_the_process_ends_when_the_program_is_killed(template: str) -> None:
    program = (
        "import time; from modules.chat.renderer import Renderer; r = Renderer(); r.render('', {}, [{}]);"
        f"print('ready', flush=True); r.render({template!r}, {{}}, [{{}}]); time.sleep(60)"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"ready\n"
        time.sleep(0.2)
        (process,) = render_processes(parent.pid)
        parent.kill()
    wait_until_ended(process)


def test_an_error_has_the_line_of_the_template(subtests: pytest.Subtests) -> None:
    lines = {
        "a\n{% for x in y %}\n": 2,
        "a\n{{ 'b'\n": 2,
        "\n\n{{ x.y.z }}": 3,
        "{% macro f() %}\n{{ raise_exception('no') }}{% endmacro %}\n{{ f() }}": 2,
        "\n{{ 1 / 0 }}\n": 2,
        "{% nonsense %}": 1,
    }
    templates = Renderer()
    for template, line in lines.items():
        with subtests.test(template):
            (rendering,) = templates.render(template, {"y": [1], "x": {}}, [{}])
            assert rendering.error and rendering.line == line
    templates.close()
