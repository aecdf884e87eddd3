"""Event handlers of the download panel, called as any client can call them, with a local hub and real downloads."""

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
INVALID_PAYLOADS = [
    None,
    5,
    1.5,
    True,
    [],
    ["a"],
    {},
    {"text": 5},
    {"text": "user/gguf", "selected": "all"},
    "\0",
    "x" * 5000,
]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer(token="hf_right") as started:
        for repo, files in FILES.items():
            started.add(repo, files)
        yield started


@pytest.fixture
def make_panel(make_app: Callable[..., App], hub: HubServer, tmp_path: Path) -> Callable[..., Any]:
    def make(*arguments: str, language: str = "en") -> Any:
        app = make_app("--hf-endpoint", hub.url, "--lora-dir", str(tmp_path / "loras"), *arguments)
        with page_parts() as blocks:
            page = Page(app, language)
            panel = DownloadsPanel(page, ModelTab(page, followers()))
        handlers: Any = AsCalled(blocks, panel.chooser, panel.jobs)
        handlers.settings = AsCalled(blocks, panel.settings)
        handlers.app = app
        return handlers

    return make


@pytest.fixture
def panel(make_panel: Callable[..., Any]) -> Any:
    return make_panel()


def list_files(panel: Any, text: object, file: object = "", shown: object = None) -> dict[Any, Any]:
    return last(panel.list_files(shown, text, file))


def tick(updates: dict[Any, Any], panel: Any, *names: str) -> dict[str, object]:
    """Return what the browser sends after these boxes have been ticked."""
    return {**updates[panel.listed], "selected": list(names)}


def start_download(panel: Any, shown: object, text: object, file: object = "", digest: object = "") -> dict[Any, Any]:
    return last(panel.start(shown, text, file, digest))


def press(panel: Any, action: object, job: object) -> dict[Any, Any]:
    updates: dict[Any, Any] = panel.act(SimpleNamespace(_data={"act": action, "job": job}))
    return updates


def job_of(html: str) -> str:
    match = re.search(r'data-job="(\w+)"', html)
    assert match
    return match[1]


def wait_until_done(panel: Any) -> None:
    until(lambda: all(job.state == "done" for job in panel.app.downloads.snapshot()))


# -- file list --------------------------------------------------------------------------------------------------------


def test_a_gguf_repository_is_listed_with_the_recommended_file_selected(panel: Any) -> None:
    updates = list_files(panel, GGUF)
    assert updates[panel.files].count("<label") == 3 and updates[panel.files].count(" checked") == 1
    assert updates[panel.files].count("recommended") == 1
    assert updates[panel.download] == "Download 1 file · 20.0 KB" and "→ models/m.Q4_K_M.gguf" in updates[panel.status]
    assert updates[panel.listed]["text"] == GGUF


def test_a_folder_of_weights_is_preselected(panel: Any) -> None:
    updates = list_files(panel, f"  {PLAIN} ")
    assert updates[panel.files].count(" checked") == 2 and "pickle" in updates[panel.files]
    assert updates[panel.download] == "Download 2 files · 20.0 KB"
    assert "→ models/user_plain" in updates[panel.status]


def test_a_lora_is_recognized_and_its_folder_shown(panel: Any) -> None:
    assert "LoRA → loras/user_lora" in list_files(panel, LORA)[panel.status]


def test_a_link_to_a_file_selects_only_that_file(panel: Any, hub: HubServer) -> None:
    updates = list_files(panel, f"{hub.url}/{GGUF}/blob/main/{Q8}")
    assert updates[panel.files].count(" checked") == 1
    assert updates[panel.download] == "Download 1 file · 30.0 KB"


def test_the_file_name_is_kept_only_if_the_repository_has_it(panel: Any) -> None:
    updates = list_files(panel, GGUF, Q8)
    assert updates[panel.file] == Q8 and updates[panel.download] == "Download 1 file · 30.0 KB"
    assert list_files(panel, PLAIN, Q8)[panel.file] == ""


def test_downloaded_files_are_marked(panel: Any, tmp_path: Path) -> None:
    (tmp_path / "models" / Q4).write_bytes(FILES[GGUF][Q4])
    updates = list_files(panel, GGUF)
    assert updates[panel.files].count(">Downloaded<") == 1
    (tmp_path / "models" / Q8).write_bytes(FILES[GGUF][Q8])
    marks = panel.mark_downloaded(updates[panel.listed])[panel.downloaded]
    assert Q4 in marks and Q8 in marks and "README" not in marks


def test_insufficient_disk_space_is_reported_before_the_download(panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.downloads.disk.free_space", lambda _: 10**6)
    assert "Not enough disk space" in list_files(panel, PLAIN)[panel.status]


@pytest.mark.parametrize(
    ("language", "messages"),
    [
        ("zh", ("无法识别", "找不到 no/body", "请先输入")),
        ("en", ("does not name a model", "no/body was not found", "Enter a model first")),
    ],
)
def test_an_invalid_or_unknown_address_is_reported(
    make_panel: Callable[..., Any], language: str, messages: tuple[str, ...]
) -> None:
    panel = make_panel(language=language)
    for address, message in zip(("nonsense", "no/body", " "), messages, strict=True):
        updates = list_files(panel, address)
        assert message in unescape(updates[panel.status]) and updates[panel.files] == "" and updates[panel.listed] == {}


def test_an_internal_error_is_reported(panel: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(panel.app.mirrors, "parse_address", lambda _: 1 / 0)
    assert "Internal error" in list_files(panel, GGUF)[panel.status]
    assert "Internal error" in panel.sum_up({}, GGUF, "")[panel.status]
    assert "Internal error" in start_download(panel, {}, GGUF)[panel.status]


def test_the_hub_is_named_while_it_is_contacted(panel: Any) -> None:
    async def collect(updates: AsyncIterator[Any]) -> list[Any]:
        return [update async for update in updates]

    first, *_ = asyncio.run(collect(panel.list_files({}, GGUF, "")))
    assert "Contacting 127.0.0.1" in first[panel.status]


# -- memory estimate --------------------------------------------------------------------------------------------------


def test_the_memory_estimate_is_shown_after_the_list(panel: Any, hub: HubServer, smollm2: Path) -> None:
    hub.add("user/real", {"m.Q4_1.gguf": smollm2})
    shown = list_files(panel, "user/real")[panel.listed]
    fits = asyncio.run(panel.show_fits(shown))[panel.fits]
    assert "fits" in fits and shown["commit"] in fits and "m.Q4_1.gguf" in fits


def test_a_gguf_adapter_is_saved_to_the_loras_folder(panel: Any, hub: HubServer, tmp_path: Path) -> None:
    hub.add("user/cat", {"cat-f16.gguf": gguf({**MODEL, "general.type": "adapter", "adapter.type": "lora"})})
    updates = list_files(panel, "user/cat")
    shown = tick(updates, panel, "cat-f16.gguf")
    updates = asyncio.run(panel.show_fits(shown, "user/cat", ""))
    assert "loras/" in updates[panel.fits] and "loras/cat-f16.gguf" in updates[panel.status]
    requests = len(hub.log)
    assert "loras/cat-f16.gguf" in panel.sum_up(shown, "user/cat", "")[panel.status] and len(hub.log) == requests
    assert "loras/cat-f16.gguf" in start_download(panel, shown, "user/cat")[panel.status]
    until(lambda: (tmp_path / "loras" / "cat-f16.gguf").exists())
    assert not (tmp_path / "models" / "cat-f16.gguf").exists()
    assert "cat-f16.gguf" in panel.mark_downloaded(shown)[panel.downloaded]


def test_the_button_does_not_name_files_of_an_address_that_was_edited_meanwhile(panel: Any) -> None:
    shown = tick(list_files(panel, PLAIN), panel, "model.safetensors")
    assert panel.download not in asyncio.run(panel.show_fits(shown, PLAIN, ""))
    updates = asyncio.run(panel.show_fits(shown, GGUF, ""))
    assert (updates[panel.download], updates[panel.status]) == ("Download", "")


def test_no_memory_estimate_is_made_for_an_invalid_file_list(
    panel: Any, hub: HubServer, subtests: pytest.Subtests
) -> None:
    for shown in INVALID_PAYLOADS:
        with subtests.test(shown=shown):
            asyncio.run(panel.show_fits(shown))
            panel.mark_downloaded(shown)
            assert hub.log == []


# -- summary of the selection -----------------------------------------------------------------------------------------


def test_the_button_shows_the_selected_size_without_requests(panel: Any, hub: HubServer) -> None:
    updates = list_files(panel, GGUF)
    requests = len(hub.log)
    summary = panel.sum_up(tick(updates, panel, Q4, Q8), GGUF, "")
    assert summary[panel.download] == "Download 2 files · 50.0 KB"
    assert panel.sum_up(tick(updates, panel, Q4, Q8), GGUF, Q4)[panel.download] == "Download 1 file · 20.0 KB"
    assert panel.sum_up(tick(updates, panel), GGUF, "")[panel.download] == "Download"
    assert panel.sum_up(tick(updates, panel, Q4), PLAIN, "")[panel.download] == "Download", (
        "the selection belongs to another repository"
    )
    assert "no file" in panel.sum_up(tick(updates, panel, "../x"), GGUF, "")[panel.status]
    assert len(hub.log) == requests


def test_files_of_the_same_name_that_would_be_replaced_are_announced(panel: Any) -> None:
    updates = list_files(panel, GGUF)
    models = panel.app.downloads.install_target(DownloadSpec(GGUF, "main", "")).root
    for size, announced in ((20_000, False), (500, True)):  # the file itself, one of another repository
        (models / Q4).write_bytes(bytes(size))
        status = panel.sum_up(tick(updates, panel, Q4, Q8), GGUF, "")[panel.status]
        assert ("replaces existing files of the same name: 1" in status) == announced


def test_selected_files_without_a_row_are_downloaded(
    panel: Any, hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.ui.downloads.file_table.MAX_ROWS", 3)
    hub.add("user/many", {f"model-{number}.safetensors": bytes([number]) * 100 for number in range(5)})
    updates = list_files(panel, "user/many")
    assert "2 of them are selected" in updates[panel.files] and "5 files" in updates[panel.download]
    visible = re.findall(r'value="([^"]+)"', updates[panel.files])
    assert len(visible) == 3
    shown = tick(updates, panel, *visible[:2])
    assert "4 files" in panel.sum_up(shown, "user/many", "")[panel.download]
    start_download(panel, shown, "user/many")
    (job,) = panel.app.downloads.snapshot()
    assert sorted(job.spec.files) == sorted({f"model-{number}.safetensors" for number in range(5)} - {visible[2]})


def test_no_payload_causes_an_internal_error(panel: Any, subtests: pytest.Subtests) -> None:
    for payload in INVALID_PAYLOADS:
        with subtests.test(payload=payload):
            for updates in (
                panel.sum_up(payload, payload, payload),
                panel.sum_up(payload, GGUF, payload),
                list_files(panel, payload, payload, payload),
                start_download(panel, payload, payload, payload, payload),
                start_download(panel, payload, GGUF, payload, payload),
                panel.refresh(payload),
                panel.settings.set_endpoint(payload),
                panel.settings.set_token(payload, payload),
                panel.settings.set_hosts(payload),
                press(panel, payload, payload),
                panel.act(SimpleNamespace(_data=payload)),
            ):
                assert "Internal error" not in str(updates)


# -- downloading ------------------------------------------------------------------------------------------------------


def test_selected_files_are_downloaded_and_models_listed_again(panel: Any, tmp_path: Path) -> None:
    shown = tick(list_files(panel, GGUF), panel, Q4)
    updates = start_download(panel, shown, GGUF)
    assert Q4 in updates[panel.jobs]
    wait_until_done(panel)
    until(lambda: 'data-finished="1"' in panel.refresh(None)[panel.jobs])
    assert (tmp_path / "models" / Q4).read_bytes() == FILES[GGUF][Q4]
    assert "All checksums match" in panel.refresh(None)[panel.jobs]


def test_a_file_name_suffices_without_a_list(panel: Any, tmp_path: Path) -> None:
    start_download(panel, {}, GGUF, Q8)
    wait_until_done(panel)
    assert (tmp_path / "models" / Q8).read_bytes() == FILES[GGUF][Q8]


def test_the_preselection_is_downloaded_without_a_list(panel: Any, tmp_path: Path) -> None:
    start_download(panel, {}, LORA)
    start_download(panel, {}, PLAIN)
    wait_until_done(panel)
    assert (tmp_path / "loras" / "user_lora" / "adapter_model.safetensors").exists()
    assert not (tmp_path / "models" / "user_plain" / "pytorch_model.bin").exists()


def test_several_gguf_files_are_listed_instead_of_downloaded(panel: Any) -> None:
    updates = start_download(panel, {}, GGUF)
    assert "<label" in updates[panel.files] and "→ models/m.Q4_K_M.gguf" in updates[panel.status]
    assert panel.app.downloads.snapshot() == ()
    assert "Select the files" in start_download(panel, tick(updates, panel), GGUF)[panel.status]


def test_a_repository_changed_since_it_was_listed_is_listed_again(panel: Any, hub: HubServer) -> None:
    shown = tick(list_files(panel, GGUF), panel, Q4)
    hub.add(GGUF, {Q4: noise(25_000, 7)})
    list_files(panel, GGUF)  # in another window
    updates = start_download(panel, shown, GGUF)
    assert "has changed" in updates[panel.status] and "25.0 KB" in updates[panel.files]
    assert panel.app.downloads.snapshot() == ()


def test_unchanged_jobs_are_not_sent_again(panel: Any) -> None:
    first = panel.refresh(None)
    assert all(value == gr.skip() for value in panel.refresh(first[panel.digest]).values())


def test_the_buttons_pause_resume_cancel_and_dismiss(panel: Any, hub: HubServer, tmp_path: Path) -> None:
    hub.fault(Q8, origin="cdn", rate=15_000, skip=1)  # not when its header is read, before the job exists
    job = job_of(start_download(panel, {}, GGUF, Q8)[panel.jobs])
    until(lambda: panel.app.downloads.snapshot()[0].state == "downloading")

    def wait_for_state(state: str) -> None:
        until(lambda: panel.app.downloads.snapshot()[0].state == state)

    press(panel, "pause", job)
    wait_for_state("paused")
    press(panel, "resume", job)
    wait_for_state("downloading")
    press(panel, "cancel", job)
    wait_for_state("cancelled")
    assert job not in press(panel, "forget", job)[panel.jobs]
    assert not (tmp_path / "models" / Q8).exists()


@pytest.mark.parametrize("action", ["keep", "restart"])
def test_either_commit_of_an_updated_branch_can_be_downloaded(
    panel: Any, hub: HubServer, tmp_path: Path, action: str
) -> None:
    fault = hub.fault(Q8, origin="cdn", rate=15_000, skip=1)
    job = job_of(start_download(panel, {}, GGUF, Q8)[panel.jobs])
    until(lambda: panel.app.downloads.snapshot()[0].done > 0)
    press(panel, "pause", job)
    until(lambda: panel.app.downloads.snapshot()[0].state == "paused")
    newer = noise(30_000, 9)
    hub.add(GGUF, {Q8: newer})
    hub.faults.remove(fault)
    press(panel, "resume", job)
    until(lambda: panel.app.downloads.snapshot()[0].moved)
    assert (
        'data-act="keep"' in panel.refresh(None)[panel.jobs] and 'data-act="restart"' in panel.refresh(None)[panel.jobs]
    )
    press(panel, action, job)
    wait_until_done(panel)
    assert (tmp_path / "models" / Q8).read_bytes() == (newer if action == "restart" else FILES[GGUF][Q8])


def test_an_action_on_an_unknown_job_is_reported(panel: Any) -> None:
    assert "There is no download" in press(panel, "pause", "nothing")[panel.error]
    assert press(panel, "explode", "nothing")[panel.error] == ""


def test_an_expected_sha256_is_compared_before_the_download(panel: Any, hub: HubServer, tmp_path: Path) -> None:
    right = hub.repos[GGUF].commits[hub.repos[GGUF].branches["main"]][Q8].sha256
    wrong = "0" * 64
    message = start_download(panel, {}, GGUF, Q8, wrong)[panel.status]
    assert right in message and wrong in message
    assert "only large files" in start_download(panel, {}, GGUF, "README.md", right)[panel.status]
    assert "not a valid SHA-256" in start_download(panel, {}, GGUF, Q8, "nonsense")[panel.status]
    assert panel.app.downloads.snapshot() == () and hub.requests(origin="cdn") == []
    updates = start_download(panel, {}, GGUF, Q8, f" {right.upper()} ")
    assert updates[panel.settings.sha256] == ""
    wait_until_done(panel)
    assert (tmp_path / "models" / Q8).exists()


# -- guests -----------------------------------------------------------------------------------------------------------


def test_multi_user_mode_refuses_guests(make_panel: Callable[..., Any], hub: HubServer, tmp_path: Path) -> None:
    panel = make_panel("--multi-user")
    settings = panel.settings
    messages = [
        list_files(panel, GGUF)[panel.status],
        start_download(panel, {}, GGUF, Q8)[panel.status],
        press(panel, "pause", "x")[panel.error],
        settings.set_endpoint("other.example")[settings.line],
        settings.set_token("hf_theirs", [])[settings.line],
        settings.set_hosts([])[settings.line],
        settings.forget_token()[settings.line],
    ]
    assert all("only its owner" in message for message in messages)
    assert hub.log == [] and panel.app.mirrors.token is None and (tmp_path / "settings.yaml").read_text() == ""
    panel.app.downloads.start(DownloadSpec(GGUF, "main", "", (Q8,), flat=True))
    assert Q8 not in panel.refresh(None)[panel.jobs] and settings.endpoint not in settings.show(), (
        "guests do not see downloads of others"
    )
    wait_until_done(panel)
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


def test_the_numbers_of_connections_and_simultaneous_downloads_are_settings(
    make_panel: Callable[..., Any], hub: HubServer, tmp_path: Path
) -> None:
    (tmp_path / "settings.yaml").write_text("download_connections: 2\ndownloads_at_once: 2\n")
    downloads = make_panel().app.downloads
    hub.fault(r"user/[abc]/resolve", delay=1)
    for repo in ("user/a", "user/b", "user/c"):
        hub.add(repo, {f"{number}.json": noise(2000, number) for number in range(8)})
        downloads.start(DownloadSpec(repo, "main", repo[-1]))
    until(lambda: [job.state for job in downloads.snapshot()] == ["downloading", "downloading", "queued"])
    until(lambda: len(hub.requests("user/a/resolve")) >= 2)
    assert len(hub.requests("user/a/resolve")) == 2, "the others wait for a connection"


@pytest.mark.parametrize("setting", ["download_connections: 9", "download_connections: 0", "downloads_at_once: 5"])
def test_connection_limits_are_enforced(make_panel: Callable[..., Any], tmp_path: Path, setting: str) -> None:
    (tmp_path / "settings.yaml").write_text(setting)
    with pytest.raises(SettingsError, match=setting.partition(":")[0]):
        make_panel()
