"""Download jobs as HTML: their state, buttons and messages in both languages, with all untrusted text escaped."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from modules.downloads.errors import DiskFull
from modules.downloads.record import DownloadSpec
from modules.downloads.view import JobView
from modules.hub.errors import MirrorUnreachable, RateLimited
from modules.ui.downloads import job_cards
from modules.ui.locales import translator

HOSTILE = '"><img src=x onerror="alert(1)">&'


TR = translator("en")


OID, COMMIT = "0" * 40, "c" * 40


CANCEL_BUTTONS = ("ask", "cancel", "unask")


def job(**changes: object) -> JobView:
    spec = DownloadSpec("user/model", "main", "", ("sub/m.Q4_K_M.gguf",), flat=True)
    view = JobView(id="1a2b", spec=spec, state="downloading", folder=Path("/models"), host="hub.example", count=1)
    return dataclasses.replace(view, **changes)  # type: ignore[arg-type]


def card(view: JobView, language: str = "en") -> str:
    return job_cards.jobs([view], 0, language, translator(language))


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:01"), (65, "1:05"), (7200, "2:00:00")])
def test_remaining_time_is_formatted_as_a_clock(seconds: float, text: str) -> None:
    assert job_cards.clock(seconds) == text


def test_untrusted_names_are_escaped_everywhere() -> None:
    spec = DownloadSpec(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,))
    views = [
        job(id=HOSTILE, spec=spec, folder=Path(HOSTILE), host=HOSTILE, file=HOSTILE, index=1, count=2, state=state)
        for state in ("downloading", "done", "failed", "paused", "cancelled")
    ]
    views += [
        job(spec=spec, moved=HOSTILE, commit=HOSTILE, state="paused"),
        job(spec=spec, waiting=MirrorUnreachable(HOSTILE, HOSTILE)),
        job(spec=spec, error=MirrorUnreachable(HOSTILE, HOSTILE), state="failed"),
    ]
    piece = job_cards.jobs(views, 0, "en", TR)
    assert "<img" not in piece and 'onerror="' not in piece


def test_a_running_job_shows_progress_speed_and_remaining_time() -> None:
    html = card(job(done=10**9, total=4 * 10**9, speed=3e7, seconds_left=100.0))
    for text in ("m.Q4_K_M.gguf", "Downloading", "1.00 GB / 4.00 GB", "25%", "30.0 MB/s", "1:40 left", "width:25.00%"):
        assert text in re.sub(r"</?span[^>]*>", "", html), text
    assert 'data-act="pause"' in html and 'data-act="cancel"' in html and 'data-act="resume"' not in html


@pytest.mark.parametrize(
    ("files", "title"),
    [
        (("sub/m.gguf",), "m.gguf"),
        (("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"), "m-00001-of-00002.gguf"),
        (("config.json", "tokenizer.json"), "user/model"),
        (None, "user/model"),
    ],
)
def test_a_job_is_titled_by_its_file_or_repository(files: tuple[str, ...] | None, title: str) -> None:
    assert job_cards.title(job(spec=DownloadSpec("user/model", "main", "t", files, flat=True))) == title


def test_a_title_includes_a_branch_other_than_main() -> None:
    assert job_cards.title(job(spec=DownloadSpec("user/model", "other", "t"))) == "user/model:other"


def test_a_stalled_job_shows_no_speed_or_remaining_time() -> None:
    html = card(job(done=1, total=4))
    assert "<span>—</span>" in html and "— left" in html


def test_the_current_file_of_several_is_named() -> None:
    html = card(job(spec=DownloadSpec("user/model", "main", "t"), index=2, count=5, file="sub/a.bin", total=9))
    assert "file 2 of 5" in html and 'title="sub/a.bin"' in html and 'title="user/model"' in html


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_waiting_job_shows_the_reason_and_a_countdown(language: str) -> None:
    rate_limited = job(waiting=RateLimited("hub", 300), wait_seconds=41.6, attempt=1, attempts=6)
    assert "42" in card(rate_limited, language) and "300" not in card(rate_limited, language)
    retries = {"zh": "自动重试", "en": "retrying"}[language]
    failed = job(state="failed", error=RateLimited("hub", 300))
    assert retries in card(rate_limited, language) and retries not in card(failed, language), "nothing retries that"
    disconnected = job(waiting=MirrorUnreachable("hub", "timeout"), wait_seconds=7.7, attempt=2, attempts=6)
    assert "timeout" in card(disconnected, language) and "8" in card(disconnected, language)
    assert {"zh": "等待中", "en": "Waiting"}[language] in card(disconnected, language)


BUTTONS: list[tuple[dict[str, object], str, set[str]]] = [
    ({"state": "queued"}, "queued", {"pause", *CANCEL_BUTTONS}),
    ({"state": "paused"}, "paused", {"resume", *CANCEL_BUTTONS}),
    ({"state": "paused", "interrupted": True}, "interrupted", {"resume", *CANCEL_BUTTONS}),
    ({"state": "failed", "error": MirrorUnreachable("h", "w")}, "failed", {"resume", *CANCEL_BUTTONS}),
    (
        {"state": "paused", "moved": "d" * 40, "commit": COMMIT},
        "choose",
        {"keep", "restart", *CANCEL_BUTTONS},
    ),
    ({"state": "done"}, "done", {"load", "forget"}),
    ({"state": "done", "spec": DownloadSpec("user/lora", "main", "t", kind="lora")}, "done", {"forget"}),
    ({"state": "cancelled"}, "cancelled", {"forget"}),
    ({"state": "downloading", "elsewhere": True}, "elsewhere", set()),
]


def test_the_buttons_of_a_download_depend_on_its_state(subtests: pytest.Subtests) -> None:
    for changes, state, actions in BUTTONS:
        with subtests.test(changes=changes):
            html = card(job(**changes))
            assert f"tx-dl-{state}" in html and set(re.findall(r'data-act="(\w+)"', html)) == actions


def test_the_cancel_confirmation_names_the_size_lost() -> None:
    assert "delete the 209 MB" in card(job(done=209_000_000, total=10**9))


def test_a_finished_job_names_its_folder_and_the_checksum_source() -> None:
    html = card(job(state="done", total=2 * 10**9))
    assert "Saved to /models/m.Q4_K_M.gguf (files: 1, 2.00 GB). All checksums match those of hub.example." in html
    assert "width:100.00%" in html


def test_a_full_disk_pauses_and_is_reported() -> None:
    html = card(job(state="paused", error=DiskFull("/models", 2 * 10**9, 10**9)))
    assert 'role="alert"' in html and "Not enough disk space: 2.00 GB needed" in html


def test_an_updated_branch_offers_both_commits() -> None:
    html = card(job(state="paused", moved="d" * 40, commit=COMMIT))
    assert "Resume the old version ccccccc" in html and "Start over with the new version ddddddd" in html
