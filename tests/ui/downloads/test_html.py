"""The HTML of downloads: what is told of files and jobs, in both languages, with everything from outside escaped."""

from __future__ import annotations

import dataclasses
import json
import re
from html import unescape
from pathlib import Path

import pytest

from modules.core.errors import both
from modules.downloads.record import Wanted
from modules.downloads.view import JobView
from modules.hub.errors import DiskFull, MirrorUnreachable, RateLimited
from modules.hub.file_choices import choices
from modules.hub.repository import RemoteFile, Repository
from modules.planning.download_fit import Verdict
from modules.ui.downloads import html as markup
from modules.ui.locales import translator

HOSTILE = '"><img src=x onerror="alert(1)">&'
TR = translator("en")
OID, COMMIT = "0" * 40, "c" * 40
GIB = 1 << 30
ASKS = ("ask", "cancel", "unask")


def repository(*paths: str) -> Repository:
    return Repository("user/model", "main", COMMIT, tuple(RemoteFile(path, 2 * 10**9, git_oid=OID) for path in paths))


def table(*paths: str, ticked: tuple[str, ...] = (), here: tuple[str, ...] = ()) -> str:
    return markup.table(choices(repository(*paths)), ticked, here, COMMIT, "en", TR)


def job(**facts: object) -> JobView:
    wanted = Wanted("user/model", "main", "", ("sub/m.Q4_K_M.gguf",), flat=True)
    view = JobView(id="1a2b", wanted=wanted, state="downloading", folder=Path("/models"), host="hub.example", count=1)
    return dataclasses.replace(view, **facts)  # type: ignore[arg-type]


def said(view: JobView, language: str = "en") -> str:
    return markup.jobs([view], 0, language, translator(language))


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 B"), (999, "999 B"), (4081004224, "4.08 GB"), (98_362_432, "98.4 MB"), (269_000_000_000, "269 GB")],
)
def test_sizes_have_three_digits(count: int, words: str) -> None:
    assert markup.size(count) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.2, "0:01"), (65, "1:05"), (7200, "2:00:00")])
def test_what_is_left_is_a_clock(seconds: float, words: str) -> None:
    assert markup.clock(seconds) == words


def test_a_row_has_a_box_a_name_a_quantisation_and_a_size() -> None:
    told = table("m.Q4_K_M.gguf", "m.Q8_0.gguf", ticked=("m.Q8_0.gguf",), here=("m.Q4_K_M.gguf",))
    rows = told.split("<label")[1:]
    assert len(rows) == 2
    assert "recommended" in rows[0] and " checked" not in rows[0] and ">here<" in rows[0] and "2.00 GB" in rows[0]
    assert "recommended" not in rows[1] and " checked" in rows[1] and ">here<" not in rows[1] and ">Q8_0<" in rows[1]


def test_a_split_set_is_one_row_and_an_incomplete_one_cannot_be_ticked() -> None:
    whole = table("m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf")
    assert whole.count("<label") == 1 and "2 parts" in whole and "disabled" not in whole
    lacking = table("m-Q8_0-00001-of-00002.gguf")
    assert " disabled" in lacking and "Parts are missing: m-Q8_0-00002-of-00002.gguf" in lacking


@pytest.mark.parametrize("language", ["zh", "en"])
def test_what_may_run_code_is_warned_of_beside_its_row(language: str) -> None:
    known = choices(repository("model.safetensors", "pytorch_model.bin", "code.py"))
    told = markup.table(known, (), (), COMMIT, language, translator(language))
    assert told.count("tx-dl-caution") == 2 and "pickle" in told and "trust_remote_code" in told


def test_only_so_many_rows_are_drawn_but_all_that_are_ticked_and_the_rest_is_counted() -> None:
    names = [f"{number:05}.bin" for number in range(markup.MOST_ROWS + 5)]
    told = table(*names, ticked=(names[-1],))
    assert told.count("<label") == markup.MOST_ROWS and "5 more files" in told and f'value="{names[-1]}"' in told


def test_names_from_outside_are_escaped_everywhere() -> None:
    wanted = Wanted(HOSTILE, HOSTILE, HOSTILE, (HOSTILE,))
    views = [
        job(id=HOSTILE, wanted=wanted, folder=Path(HOSTILE), host=HOSTILE, file=HOSTILE, index=1, count=2, state=state)
        for state in ("downloading", "done", "failed", "paused", "cancelled")
    ]
    views += [
        job(wanted=wanted, moved=HOSTILE, commit=HOSTILE, state="paused"),
        job(wanted=wanted, waiting=MirrorUnreachable(HOSTILE, HOSTILE)),
        job(wanted=wanted, error=MirrorUnreachable(HOSTILE, HOSTILE), state="failed"),
    ]
    verdict = {HOSTILE: Verdict("unsupported", why=both(HOSTILE))}
    pieces = [
        table(HOSTILE, f"{HOSTILE}-00001-of-00002.gguf", ticked=(HOSTILE,)),
        markup.table((), (), (), HOSTILE, "en", TR),
        markup.jobs(views, 0, "en", TR),
        markup.fits(verdict, HOSTILE, "en", TR),
        markup.here([HOSTILE], HOSTILE, TR),
        markup.summary(HOSTILE, HOSTILE),
    ]
    assert all("<img" not in piece and 'onerror="' not in piece for piece in pieces)


def told_fits(html: str) -> dict[str, list[str]]:
    found = re.search(r'data-fits="([^"]*)"', html)
    assert found
    told: dict[str, list[str]] = json.loads(unescape(found[1]))
    return told


def test_what_fits_is_told_with_its_numbers() -> None:
    found = {
        "a": Verdict("fits", 2 * GIB, 8 * GIB, 4096),
        "b": Verdict("tight", 7 * GIB, 8 * GIB),
        "c": Verdict("short", 9 * GIB, 8 * GIB, 512),
    }
    told = told_fits(markup.fits(found, COMMIT, "en", TR))
    assert told["a"] == ["✓ fits", "about 2.0 GB needed, 8.0 GB free (context 4096)", "fits"]
    assert told["b"] == ["! tight", "weights 7.0 GB, memory free 8.0 GB", "tight"]
    assert told["c"][0] == "✗ needs 9.0 GB, has 8.0 GB"


def test_a_job_on_its_way_tells_how_far_how_fast_and_how_long() -> None:
    told = said(job(done=10**9, total=4 * 10**9, speed=3e7, seconds_left=100.0))
    for words in ("m.Q4_K_M.gguf", "Downloading", "1.00 GB / 4.00 GB", "25%", "30.0 MB/s", "1:40 left", "width:25.00%"):
        assert words in re.sub(r"</?span[^>]*>", "", told), words
    assert 'data-act="pause"' in told and 'data-act="cancel"' in told and 'data-act="resume"' not in told


@pytest.mark.parametrize(
    ("files", "title"),
    [
        (("sub/m.gguf",), "m.gguf"),
        (("m-00001-of-00002.gguf", "m-00002-of-00002.gguf"), "m-00001-of-00002.gguf"),
        (("config.json", "tokenizer.json"), "user/model"),
        (None, "user/model"),
    ],
)
def test_a_job_is_called_by_its_one_file_or_set_or_else_its_repository(
    files: tuple[str, ...] | None, title: str
) -> None:
    assert markup.title(job(wanted=Wanted("user/model", "main", "t", files, flat=True))) == title


def test_of_another_branch_the_repository_is_called_with_it() -> None:
    assert markup.title(job(wanted=Wanted("user/model", "other", "t"))) == "user/model:other"


def test_a_stalled_job_has_no_speed_and_nothing_left_to_tell() -> None:
    told = said(job(done=1, total=4))
    assert "<span>—</span>" in told and "— left" in told


def test_of_many_files_the_one_on_its_way_is_named() -> None:
    told = said(job(wanted=Wanted("user/model", "main", "t"), index=2, count=5, file="sub/a.bin", total=9))
    assert "file 2 of 5" in told and 'title="sub/a.bin"' in told and 'title="user/model"' in told


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_job_that_waits_says_why_and_counts_down(language: str) -> None:
    limited = job(waiting=RateLimited("hub", 300), wait_seconds=41.6, attempt=1, attempts=6)
    assert "42" in said(limited, language) and "300" not in said(limited, language)
    lost = job(waiting=MirrorUnreachable("hub", "timeout"), wait_seconds=7.7, attempt=2, attempts=6)
    assert "timeout" in said(lost, language) and "8" in said(lost, language)
    assert {"zh": "等待中", "en": "Waiting"}[language] in said(lost, language)


BUTTONS: list[tuple[dict[str, object], str, set[str]]] = [
    ({"state": "queued"}, "queued", {"pause", *ASKS}),
    ({"state": "paused"}, "paused", {"resume", *ASKS}),
    ({"state": "paused", "interrupted": True}, "interrupted", {"resume", *ASKS}),
    ({"state": "failed", "error": MirrorUnreachable("h", "w")}, "failed", {"resume", *ASKS}),
    (
        {"state": "paused", "moved": "d" * 40, "commit": COMMIT},
        "choose",
        {"keep", "anew", *ASKS},
    ),
    ({"state": "done"}, "done", {"forget"}),
    ({"state": "cancelled"}, "cancelled", {"forget"}),
    ({"state": "downloading", "elsewhere": True}, "elsewhere", set()),
]


def test_the_buttons_of_a_download_depend_on_its_state(subtests: pytest.Subtests) -> None:
    for facts, state, acts in BUTTONS:
        with subtests.test(facts=facts):
            told = said(job(**facts))
            assert f"tx-dl-{state}" in told and set(re.findall(r'data-act="(\w+)"', told)) == acts


def test_the_question_before_cancelling_says_what_is_lost() -> None:
    assert "delete the 209 MB" in said(job(done=209_000_000, total=10**9))


def test_a_done_job_says_where_it_is_and_that_it_was_checked() -> None:
    told = said(job(state="done", total=2 * 10**9))
    assert "Saved to /models/m.Q4_K_M.gguf (files: 1, 2.00 GB); all hashes checked, as listed by hub.example." in told
    assert "width:100.00%" in told


def test_an_error_is_told_in_words_and_a_full_disk_pauses() -> None:
    told = said(job(state="paused", error=DiskFull("/models", 2 * 10**9, 10**9)))
    assert 'role="alert"' in told and "Not enough disk space: 2.00 GB needed" in told


def test_a_branch_that_has_moved_names_both_commits() -> None:
    told = said(job(state="paused", moved="d" * 40, commit=COMMIT))
    assert "Go on with the old ccccccc" in told and "Begin anew with ddddddd" in told
