"""Secrets are left out of logs and bug reports."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from modules.system.log_file import LogFile
from modules.system.redaction import HIDDEN, redact


def test_what_looks_like_a_secret_is_hidden(subtests: pytest.Subtests) -> None:
    for text, secret in (
        ("GET https://host/x Authorization: Bearer abc.DEF-123", "abc.DEF-123"),
        ("token hf_abcdefghijklmnop was refused", "hf_abcdefghijklmnop"),
        ("server.py --api-key my-key --listen", "my-key"),
        ('server.py --gradio_auth="me:open sesame"', "sesame"),
        ("server.py --gradio-auth me:one,you:two --listen", "two"),
        ('{"password": "p4ss word"}', "p4ss"),
        ("HF_TOKEN=abcdef", "abcdef"),
        ("fetching https://user:pass@mirror.example/file", "user:pass"),
        ("the key sk-abcdefghijkl is wrong", "sk-abcdefghijkl"),
    ):
        with subtests.test(text=text):
            hidden = redact(text)
            assert secret not in hidden and HIDDEN in hidden


def test_other_texts_stay(subtests: pytest.Subtests) -> None:
    for text in ("eos_token_id: 2, 512 tokens at 8.1/s", "Wrong password.", "http://127.0.0.1:7860/", "--api --listen"):
        with subtests.test(text=text):
            assert redact(text) == text


def test_known_secrets_are_hidden_wherever_they_are() -> None:
    assert (
        redact("path/open-sesame/x, sesame, abc", ["sesame", "open-sesame", "abc"]) == f"path/{HIDDEN}/x, {HIDDEN}, abc"
    )


def test_secrets_do_not_reach_the_log(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "x.log")
    log.handle(logging.makeLogRecord({"msg": "sent %s", "args": ("Bearer abc123",), "levelname": "INFO"}))
    log.close()
    assert f"Bearer {HIDDEN}" in (tmp_path / "logs" / "x.log").read_text()
