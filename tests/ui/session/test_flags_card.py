"""The editor of CMD_FLAGS.txt and the restart."""

from __future__ import annotations

import re
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modules.app import App
from modules.config import flags
from modules.config.flags_file import HIDDEN, FlagsFile
from modules.ui.handlers import Page
from modules.ui.session.flags_card import FlagsCard
from tests.support import echo_plans
from tests.support.page_parts import AsCalled, page_parts


def pressed(text: str = "", **data: str) -> Any:
    """Return the event of a button of the card with `text` in the editor."""
    return SimpleNamespace(_data={"fields": {"text": text}, **data})


@pytest.fixture
def make_card(make_app: Callable[..., App], tmp_path: Path) -> Callable[..., Any]:
    def make(*arguments: str, offers_restart: bool = True) -> Any:
        app = make_app(*arguments)
        app.flags_file = FlagsFile(tmp_path / "CMD_FLAGS.txt", ["--model-dir", str(tmp_path / "models")])
        stopped = threading.Event()
        if offers_restart:
            app.restart.offer(Path(sys.argv[0]).resolve(), arguments, stopped.set)
        with page_parts() as blocks:
            card = FlagsCard(Page(app, "en"))
            card.listen()
        called: Any = AsCalled(blocks, card)
        called.app, called.stopped, called.file = app, stopped, tmp_path / "CMD_FLAGS.txt"
        return called

    return make


def test_a_text_is_checked_and_saved_with_what_it_changes(make_card: Callable[..., Any]) -> None:
    card = make_card()
    html = card.check(pressed("# mine\n--api --n_ctx 512"))[card.part]
    assert "No errors. Not saved yet." in html and "<code>--n_ctx</code> not set → 512" in html
    assert "# mine" in html and not card.file.exists()
    assert "Saved. Takes effect" in card.save(pressed("# mine\n--api --n_ctx 512"))[card.part]
    assert card.file.read_text() == "# mine\n--api --n_ctx 512\n"


def test_a_text_that_changes_nothing_says_so(make_card: Callable[..., Any], tmp_path: Path) -> None:
    card = make_card()
    card.app.flags = flags.parse(["--model-dir", str(tmp_path / "models")])
    html = card.check(pressed("# a comment alone"))[card.part]
    assert "No errors." in html and card._tr("ss_flags_same") in html


def test_a_file_that_cannot_be_read_is_shown_with_the_reason(make_card: Callable[..., Any]) -> None:
    card = make_card()
    card.file.mkdir()
    html = card.show()[card.part]
    assert 'role="alert"' in html and "CMD_FLAGS.txt" in html and "<textarea" in html


def test_a_restart_names_the_model_that_it_unloads(make_card: Callable[..., Any]) -> None:
    card = make_card()
    echo_plans.load(card.app.models)
    assert card._tr("ss_running_model").format(model="good") in card.ask(pressed())[card.part]


def test_mistakes_are_shown_and_nothing_is_saved(make_card: Callable[..., Any], subtests: pytest.Subtests) -> None:
    card = make_card()
    for text, problem in (
        ("--api\n--lissten", "line 2: "),
        ("--model no-such-model", "There is no model"),
        ("--loader no-such", "There is no loader"),
        ("--settings /no/such.yaml", "/no/such.yaml"),
        ("--api-key-file /no/such", "/no/such"),
        ("--hf-endpoint ftp://x", "ftp://x"),
        ("--trust-remote-code", "can only be added to the file by hand"),
    ):
        with subtests.test(text=text):
            html = card.save(pressed(text))[card.part]
            assert 'role="alert"' in html and problem in html and text.splitlines()[-1] in html
    assert not card.file.exists()


def test_secrets_of_the_file_are_not_sent_to_the_browser(make_card: Callable[..., Any]) -> None:
    card = make_card()
    card.file.write_text("--api-key sesame\n")
    assert "sesame" not in card.show()[card.part]
    html = card.save(pressed(f"--api-key {HIDDEN}1 --api"))[card.part]
    assert "sesame" not in html and card.file.read_text() == "--api-key sesame --api\n"


def test_changes_made_by_hand_meanwhile_are_not_overwritten(make_card: Callable[..., Any]) -> None:
    card = make_card()
    card.file.write_text("--api\n")
    (seen,) = re.findall(r'name="seen" value="([^"]+)"', card.show()[card.part])
    card.file.write_text("--mlock --api\n")
    typed = SimpleNamespace(_data={"fields": {"text": "--listen-port 7001", "seen": seen}})
    html = card.save(typed)[card.part]
    assert "changed since it was shown" in html and "--listen-port 7001" in html
    assert "changed since" in card.save(typed)[card.part] and card.file.read_text() == "--mlock --api\n"


def test_a_restart_is_asked_for_and_then_done(make_card: Callable[..., Any]) -> None:
    card = make_card()
    html = card.ask(pressed("--unsaved"))[card.part]
    assert "This page comes back by itself." in html and "--unsaved" in html and not card.stopped.is_set()
    assert "has not been saved" in html and "has not been saved" not in card.ask(pressed())[card.part]
    html = card.restart(pressed())[card.part]
    assert f'data-restarting="{card.app.restart.process}"' in html and 'data-port=""' in html
    assert card.stopped.wait(2)


def test_a_restart_that_is_not_done_leaves_what_has_been_typed(make_card: Callable[..., Any]) -> None:
    card = make_card()
    card.ask(pressed("--mlock"))
    assert "--mlock</textarea>" in card.cancel(pressed("--mlock"))[card.part]
    card.file.write_text("--lissten\n")
    assert "--mlock</textarea>" in card.restart(pressed("--mlock"))[card.part]


def test_a_new_port_is_told_and_must_be_free(make_card: Callable[..., Any], free_port: int) -> None:
    card = make_card()
    with socket.create_server(("127.0.0.1", free_port)):
        html = card.save(pressed(f"--listen-port {free_port}"))[card.part]
        assert f"Port {free_port} on 127.0.0.1 is already in use" in html and not card.file.exists()
    card.save(pressed(f"--listen-port {free_port}"))
    html = card.restart(pressed())[card.part]
    assert f'data-port="{free_port}"' in html and f"The port changes to {free_port}." in html


def test_a_restart_waits_for_answers_if_asked_to(
    make_card: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    card, running = make_card(), [2]
    monkeypatch.setattr(card.app.runs, "count", lambda: running[0])
    html = card.ask(pressed())[card.part]
    assert "Answers being written: 2" in html and "Restart after the answers" in html and "Stop and restart now" in html
    html = card.restart(pressed(wait="1"))[card.part]
    assert "Waiting for the answers" in html and not card.stopped.wait(0.3)
    assert "Waiting for the answers" in card.show()[card.part], "when the page is opened again"
    assert "Waiting" not in card.cancel(pressed())[card.part]
    assert "Waiting" not in card.show()[card.part]
    card.restart(pressed(wait="1"))
    running[0] = 0
    assert card.stopped.wait(2)


def test_the_server_is_not_stopped_if_it_could_not_start_again(make_card: Callable[..., Any]) -> None:
    card = make_card()
    card.file.write_text("--lissten\n")
    assert "--lissten" in card.restart(pressed())[card.part]
    assert not card.stopped.wait(0.1)


def test_a_restart_that_cannot_work_is_not_offered(make_card: Callable[..., Any]) -> None:
    card = make_card(offers_restart=False)
    html = card.show()[card.part]
    assert "it was not started as server.py" in html and 'data-do="ask"' not in html
    assert "cannot restart by itself" in card.restart(pressed())[card.part]


def test_nobody_without_a_password_changes_flags_over_the_network(make_card: Callable[..., Any]) -> None:
    card = make_card("--listen")
    card.file.write_text("--api\n")
    assert "<textarea" not in card.show()[card.part] and "without a password" in card.show()[card.part]
    for handler in (card.save, card.restart):
        assert "without a password" in handler(pressed("--mlock"))[card.part]
    assert card.file.read_text() == "--api\n" and not card.stopped.wait(0.1)
    protected = make_card("--listen", "--gradio-auth", "me:sesame")
    assert "Saved." in protected.save(pressed("--mlock"))[protected.part]


def test_guests_change_nothing(make_card: Callable[..., Any]) -> None:
    card = make_card("--multi-user")
    for handler in (card.save, card.restart):
        handler(pressed("--mlock"))
    assert not card.file.exists() and not card.stopped.wait(0.1)
