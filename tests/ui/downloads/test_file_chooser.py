"""The handlers of the download panel, called as any client can call them, with a local hub and real downloads."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modules.app import App
from modules.core.errors import SettingsError
from modules.downloads.record import DownloadSpec
from modules.ui.downloads.panel import DownloadsPanel
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.model.tab import ModelTab
from tests.support.downloading import noise, until
from tests.support.gguf_files import MODEL, gguf
from tests.support.hub_server import HubServer
from tests.support.page_parts import AsCalled, followers, page_parts
from tests.ui.test_ui import last

gr = gradio()
GGUF, PLAIN, LORA = "user/gguf", "user/plain", "user/lora"
Q4, Q8 = "m.Q4_K_M.gguf", "m.Q8_0.gguf"
FILES = {
    GGUF: {Q4: noise(20_000, 1), Q8: noise(30_000, 2), "README.md": b"hello"},
    PLAIN: {"model.safetensors": noise(20_000, 3), "config.json": b"{}", "pytorch_model.bin": noise(20_000, 4)},
    LORA: {"adapter_model.safetensors": noise(20_000, 5), "adapter_config.json": b"{}"},
}
STRANGE = [None, 5, 1.5, True, [], ["a"], {}, {"text": 5}, {"text": "user/gguf", "selected": "all"}, "\0", "x" * 5000]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(token="hf_right") as started:
        for repo, files in FILES.items():
            started.add(repo, files)
        yield started


@pytest.fixture
def make_panel(make_app: Callable[..., App], hub: HubServer, tmp_path: Path) -> Callable[..., Any]:
    def make(*words: str, language: str = "en") -> Any:
        app = make_app("--hf-endpoint", hub.url, "--lora-dir", str(tmp_path / "loras"), *words)
        with page_parts() as blocks:
            page = Page(app, language)
            panel = DownloadsPanel(page, ModelTab(page, followers()))
        called: Any = AsCalled(blocks, panel.chooser, panel.jobs)
        called.settings = AsCalled(blocks, panel.settings)
        called.app = app
        return called

    return make


@pytest.fixture
def panel(make_panel: Callable[..., Any]) -> Any:
    return make_panel()


def listed(panel: Any, text: object, file: object = "", shown: object = None) -> dict[Any, Any]:
    return last(panel.list_files(shown, text, file))


def ticking(updates: dict[Any, Any], panel: Any, *names: str) -> dict[str, object]:
    """What the browser sends once these boxes are ticked."""
    return {**updates[panel.listed], "selected": list(names)}


def begun(panel: Any, shown: object, text: object, file: object = "", digest: object = "") -> dict[Any, Any]:
    return last(panel.start(shown, text, file, digest))


def pressed(panel: Any, act: object, job: object) -> dict[Any, Any]:
    updates: dict[Any, Any] = panel.act(SimpleNamespace(_data={"act": act, "job": job}))
    return updates


def job_of(html: str) -> str:
    found = re.search(r'data-job="(\w+)"', html)
    assert found
    return found[1]


def done(panel: Any) -> None:
    until(lambda: all(each.state == "done" for each in panel.app.downloads.snapshot()))


# -- the list ---------------------------------------------------------------------------------------------------------


def test_a_gguf_repository_is_listed_unselected_with_a_recommendation(panel: Any) -> None:
    updates = listed(panel, GGUF)
    assert updates[panel.files].count("<label") == 3 and " checked" not in updates[panel.files]
    assert updates[panel.files].count("recommended") == 1
    assert updates[panel.download] == "Download" and "Select the files" in updates[panel.status]
    assert updates[panel.listed]["text"] == GGUF


def test_a_folder_of_weights_is_preselected(panel: Any) -> None:
    updates = listed(panel, f"  {PLAIN} ")
    assert updates[panel.files].count(" checked") == 2 and "pickle" in updates[panel.files]
    assert updates[panel.download] == "Download 2 files · 20.0 KB"
    assert "→ models/user_plain" in updates[panel.status]


def test_a_lora_is_recognized_and_its_folder_shown(panel: Any) -> None:
    assert "LoRA → loras/user_lora" in listed(panel, LORA)[panel.status]


def test_a_link_to_a_file_selects_only_that_file(panel: Any, hub: HubServer) -> None:
    updates = listed(panel, f"{hub.url}/{GGUF}/blob/main/{Q8}")
    assert updates[panel.files].count(" checked") == 1
    assert updates[panel.download] == "Download 1 file · 30.0 KB"


def test_the_file_name_is_kept_only_if_the_repository_has_it(panel: Any) -> None:
    updates = listed(panel, GGUF, Q8)
    assert updates[panel.file] == Q8 and updates[panel.download] == "Download 1 file · 30.0 KB"
    assert listed(panel, PLAIN, Q8)[panel.file] == ""


def test_downloaded_files_are_marked(panel: Any, tmp_path: Path) -> None:
    (tmp_path / "models" / Q4).write_bytes(FILES[GGUF][Q4])
    updates = listed(panel, GGUF)
    assert updates[panel.files].count(">Downloaded<") == 1
    (tmp_path / "models" / Q8).write_bytes(FILES[GGUF][Q8])
    told = panel.mark_downloaded(updates[panel.listed])[panel.downloaded]
    assert Q4 in told and Q8 in told and "README" not in told


def test_a_lack_of_disk_space_is_reported_before_the_start(panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.downloads.disk.free_space", lambda _: 10**6)
    assert "Not enough disk space" in listed(panel, PLAIN)[panel.status]


@pytest.mark.parametrize(
    ("language", "words"),
    [("zh", ("无法识别", "找不到 no/body")), ("en", ("does not name a model", "no/body was not found"))],
)
def test_an_invalid_or_unknown_address_is_reported(
    make_panel: Callable[..., Any], language: str, words: tuple[str, str]
) -> None:
    panel = make_panel(language=language)
    for address, said in zip(("nonsense", "no/body"), words, strict=True):
        updates = listed(panel, address)
        assert said in unescape(updates[panel.status]) and updates[panel.files] == "" and updates[panel.listed] == {}


def test_an_internal_error_is_reported(panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel.app.mirrors, "parse_address", lambda _: 1 / 0)
    assert "Internal error" in listed(panel, GGUF)[panel.status]
    assert "Internal error" in panel.sum_up({}, GGUF, "")[panel.status]
    assert "Internal error" in begun(panel, {}, GGUF)[panel.status]


def test_the_hub_is_named_while_it_is_contacted(panel: Any) -> None:
    async def all_of(updates: AsyncIterator[Any]) -> list[Any]:
        return [each async for each in updates]

    first, *_ = asyncio.run(all_of(panel.list_files({}, GGUF, "")))
    assert "Contacting 127.0.0.1" in first[panel.status]


# -- what fits --------------------------------------------------------------------------------------------------------


def test_fit_is_shown_after_the_list(panel: Any, hub: HubServer, smollm2: Path) -> None:
    hub.add("user/real", {"m.Q4_1.gguf": smollm2})
    shown = listed(panel, "user/real")[panel.listed]
    told = asyncio.run(panel.show_fits(shown))[panel.fits]
    assert "fits" in told and shown["commit"] in told and "m.Q4_1.gguf" in told


def test_a_gguf_adapter_is_saved_to_the_loras_folder(panel: Any, hub: HubServer, tmp_path: Path) -> None:
    hub.add("user/cat", {"cat-f16.gguf": gguf({**MODEL, "general.type": "adapter", "adapter.type": "lora"})})
    updates = listed(panel, "user/cat")
    shown = ticking(updates, panel, "cat-f16.gguf")
    told = asyncio.run(panel.show_fits(shown, "user/cat", ""))
    assert "loras/" in told[panel.fits] and "loras/cat-f16.gguf" in told[panel.status]
    asked = len(hub.log)
    assert "loras/cat-f16.gguf" in panel.sum_up(shown, "user/cat", "")[panel.status] and len(hub.log) == asked
    assert "loras/cat-f16.gguf" in begun(panel, shown, "user/cat")[panel.status]
    until(lambda: (tmp_path / "loras" / "cat-f16.gguf").exists())
    assert not (tmp_path / "models" / "cat-f16.gguf").exists()
    assert "cat-f16.gguf" in panel.mark_downloaded(shown)[panel.downloaded]


def test_an_invalid_file_list_is_not_checked_for_fit(panel: Any, hub: HubServer, subtests: pytest.Subtests) -> None:
    for shown in STRANGE:
        with subtests.test(shown=shown):
            asyncio.run(panel.show_fits(shown))
            panel.mark_downloaded(shown)
            assert hub.log == []


# -- what the button would do -----------------------------------------------------------------------------------------


def test_the_button_sums_up_the_selection_without_requests(panel: Any, hub: HubServer) -> None:
    updates = listed(panel, GGUF)
    asked = len(hub.log)
    summed = panel.sum_up(ticking(updates, panel, Q4, Q8), GGUF, "")
    assert summed[panel.download] == "Download 2 files · 50.0 KB"
    assert panel.sum_up(ticking(updates, panel, Q4, Q8), GGUF, Q4)[panel.download] == "Download 1 file · 20.0 KB"
    assert panel.sum_up(ticking(updates, panel), GGUF, "")[panel.download] == "Download"
    assert panel.sum_up(ticking(updates, panel, Q4), PLAIN, "")[panel.download] == "Download", "of another repository"
    assert "no file" in panel.sum_up(ticking(updates, panel, "../x"), GGUF, "")[panel.status]
    assert len(hub.log) == asked


def test_selected_files_without_a_row_are_downloaded(
    panel: Any, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.ui.downloads.file_table.MAX_ROWS", 3)
    hub.add("user/many", {f"model-{number}.safetensors": bytes([number]) * 100 for number in range(5)})
    updates = listed(panel, "user/many")
    assert "2 of them are selected" in updates[panel.files] and "5 files" in updates[panel.download]
    drawn = re.findall(r'value="([^"]+)"', updates[panel.files])
    assert len(drawn) == 3
    shown = ticking(updates, panel, *drawn[:2])
    assert "4 files" in panel.sum_up(shown, "user/many", "")[panel.download]
    begun(panel, shown, "user/many")
    (job,) = panel.app.downloads.snapshot()
    assert sorted(job.spec.files) == sorted({f"model-{number}.safetensors" for number in range(5)} - {drawn[2]})


def test_no_payload_breaks_a_handler(panel: Any, subtests: pytest.Subtests) -> None:
    for what in STRANGE:
        with subtests.test(payload=what):
            for updates in (
                panel.sum_up(what, what, what),
                panel.sum_up(what, GGUF, what),
                listed(panel, what, what, what),
                begun(panel, what, what, what, what),
                begun(panel, what, GGUF, what, what),
                panel.refresh(what),
                panel.settings.set_endpoint(what),
                panel.settings.set_token(what, what),
                panel.settings.set_hosts(what),
                pressed(panel, what, what),
                panel.act(SimpleNamespace(_data=what)),
            ):
                assert "Internal error" not in str(updates)


# -- downloading ------------------------------------------------------------------------------------------------------


def test_selected_files_are_downloaded_and_models_listed_again(panel: Any, tmp_path: Path) -> None:
    shown = ticking(listed(panel, GGUF), panel, Q4)
    updates = begun(panel, shown, GGUF)
    assert Q4 in updates[panel.jobs]
    done(panel)
    until(lambda: 'data-finished="1"' in panel.refresh(None)[panel.jobs])
    assert (tmp_path / "models" / Q4).read_bytes() == FILES[GGUF][Q4]
    assert "All checksums match" in panel.refresh(None)[panel.jobs]


def test_a_file_name_suffices_without_a_list(panel: Any, tmp_path: Path) -> None:
    begun(panel, {}, GGUF, Q8)
    done(panel)
    assert (tmp_path / "models" / Q8).read_bytes() == FILES[GGUF][Q8]


def test_the_preselection_is_downloaded_without_a_list(panel: Any, tmp_path: Path) -> None:
    begun(panel, {}, LORA)
    begun(panel, {}, PLAIN)
    done(panel)
    assert (tmp_path / "loras" / "user_lora" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "models" / "user_plain" / "pytorch_model.bin").exists()


def test_several_gguf_files_are_listed_instead_of_downloaded(panel: Any) -> None:
    updates = begun(panel, {}, GGUF)
    assert "<label" in updates[panel.files] and "Select the files" in updates[panel.status]
    assert panel.app.downloads.snapshot() == ()
    assert "Nothing to download" in begun(panel, ticking(updates, panel), GGUF)[panel.status]


def test_a_repository_changed_since_it_was_listed_is_listed_again(panel: Any, hub: HubServer) -> None:
    shown = ticking(listed(panel, GGUF), panel, Q4)
    hub.add(GGUF, {Q4: noise(25_000, 7)})
    listed(panel, GGUF)  # in another window
    updates = begun(panel, shown, GGUF)
    assert "has changed" in updates[panel.status] and "25.0 KB" in updates[panel.files]
    assert panel.app.downloads.snapshot() == ()


def test_unchanged_jobs_are_not_sent_again(panel: Any) -> None:
    first = panel.refresh(None)
    assert all(value == gr.skip() for value in panel.refresh(first[panel.digest]).values())


def test_the_buttons_pause_resume_cancel_and_dismiss(panel: Any, hub: HubServer, tmp_path: Path) -> None:
    hub.fault(Q8, origin="cdn", rate=15_000)
    job = job_of(begun(panel, {}, GGUF, Q8)[panel.jobs])
    until(lambda: panel.app.downloads.snapshot()[0].state == "downloading")

    def becomes(state: str) -> None:
        until(lambda: panel.app.downloads.snapshot()[0].state == state)

    pressed(panel, "pause", job)
    becomes("paused")
    pressed(panel, "resume", job)
    becomes("downloading")
    pressed(panel, "cancel", job)
    becomes("cancelled")
    assert job not in pressed(panel, "forget", job)[panel.jobs]
    assert not (tmp_path / "models" / Q8).exists()


@pytest.mark.parametrize("act", ["keep", "restart"])
def test_either_commit_of_an_updated_branch_can_be_downloaded(
    panel: Any, hub: HubServer, tmp_path: Path, act: str
) -> None:
    fault = hub.fault(Q8, origin="cdn", rate=15_000)
    job = job_of(begun(panel, {}, GGUF, Q8)[panel.jobs])
    until(lambda: panel.app.downloads.snapshot()[0].done > 0)
    pressed(panel, "pause", job)
    until(lambda: panel.app.downloads.snapshot()[0].state == "paused")
    newer = noise(30_000, 9)
    hub.add(GGUF, {Q8: newer})
    hub.faults.remove(fault)
    pressed(panel, "resume", job)
    until(lambda: panel.app.downloads.snapshot()[0].moved)
    assert (
        'data-act="keep"' in panel.refresh(None)[panel.jobs] and 'data-act="restart"' in panel.refresh(None)[panel.jobs]
    )
    pressed(panel, act, job)
    done(panel)
    assert (tmp_path / "models" / Q8).read_bytes() == (newer if act == "restart" else FILES[GGUF][Q8])


def test_an_action_on_an_unknown_job_is_reported(panel: Any) -> None:
    assert "There is no download" in pressed(panel, "pause", "nothing")[panel.error]
    assert pressed(panel, "explode", "nothing")[panel.error] == ""


def test_an_expected_sha256_is_compared_before_the_download(panel: Any, hub: HubServer, tmp_path: Path) -> None:
    right = hub.repos[GGUF].commits[hub.repos[GGUF].branches["main"]][Q8].sha256
    wrong = "0" * 64
    said = begun(panel, {}, GGUF, Q8, wrong)[panel.status]
    assert right in said and wrong in said
    assert "only large files" in begun(panel, {}, GGUF, "README.md", right)[panel.status]
    assert "not a valid SHA-256" in begun(panel, {}, GGUF, Q8, "nonsense")[panel.status]
    assert panel.app.downloads.snapshot() == () and hub.requests(origin="cdn") == []
    updates = begun(panel, {}, GGUF, Q8, f" {right.upper()} ")
    assert updates[panel.settings.sha256] == ""
    done(panel)
    assert (tmp_path / "models" / Q8).exists()


# -- guests -----------------------------------------------------------------------------------------------------------


def test_multi_user_mode_refuses_guests(make_panel: Callable[..., Any], hub: HubServer, tmp_path: Path) -> None:
    panel = make_panel("--multi-user")
    settings = panel.settings
    said = [
        listed(panel, GGUF)[panel.status],
        begun(panel, {}, GGUF, Q8)[panel.status],
        pressed(panel, "pause", "x")[panel.error],
        settings.set_endpoint("other.example")[settings.line],
        settings.set_token("hf_theirs", [])[settings.line],
        settings.set_hosts([])[settings.line],
        settings.forget_token()[settings.line],
    ]
    assert all("only its owner" in each for each in said)
    panel.app.downloads.start(DownloadSpec(GGUF, "main", "", (Q8,), flat=True))
    assert Q8 not in panel.refresh(None)[panel.jobs] and settings.endpoint not in settings.show(), (
        "nor is it shown what others do"
    )
    done(panel)
    hub.log.clear()
    assert hub.log == [] and panel.app.mirrors.token is None and (tmp_path / "settings.yaml").read_text() == ""
    parts = (
        panel.download,
        panel.list_button,
        panel.address,
        panel.file,
        settings.endpoint,
        settings.token,
        settings.use,
    )
    assert not any(part.interactive for part in parts)


def test_connections_and_downloads_at_once_are_those_of_the_settings(
    make_panel: Callable[..., Any], hub: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "settings.yaml").write_text("download_connections: 2\ndownloads_at_once: 2\n")
    downloads = make_panel().app.downloads
    hub.fault(r"user/[abc]/resolve", delay=1)
    for repo in ("user/a", "user/b", "user/c"):
        hub.add(repo, {f"{number}.json": noise(2000, number) for number in range(8)})
        downloads.start(DownloadSpec(repo, "main", repo[-1]))
    until(lambda: [each.state for each in downloads.snapshot()] == ["downloading", "downloading", "queued"])
    until(lambda: len(hub.requests("user/a/resolve")) >= 2)
    assert len(hub.requests("user/a/resolve")) == 2, "the others wait for a connection"


@pytest.mark.parametrize("wrong", ["download_connections: 9", "download_connections: 0", "downloads_at_once: 5"])
def test_connection_limits_are_enforced(make_panel: Callable[..., Any], tmp_path: Path, wrong: str) -> None:
    (tmp_path / "settings.yaml").write_text(wrong)
    with pytest.raises(SettingsError, match=wrong.partition(":")[0]):
        make_panel()
