"""Installing overlays with real pip from a local index: interruptions never leave an incomplete overlay."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.core.errors import InstallFailed, InternalError, LoaderUnavailable
from modules.core.paths import ROOT
from modules.core.worker_errors import LoadFailed
from modules.loaders.availability import unavailable
from modules.loaders.load_settings import resolve
from modules.loaders.overlay import Overlay
from modules.loaders.registry import LOADERS, Loader
from modules.runtime.load_plan import LoadPlan
from modules.runtime.model_manager import ModelManager
from modules.setup import overlay_installer
from modules.setup.install import describe
from modules.setup.overlay_installer import Installation, OverlayInstaller
from modules.setup.progress_file import ProgressWriter
from modules.system import file_lock
from tests.conftest import ECHO
from tests.support.echo_plans import record, wait_until
from tests.support.package_index import PackageIndex, is_running

SECONDS = 60


@pytest.fixture
def index(package_index: PackageIndex) -> PackageIndex:
    package_index.add_wheel("quickly", needs="torch==99")
    package_index.add_slow()
    return package_index


@pytest.fixture
def overlay(tmp_path: Path, index: PackageIndex) -> Overlay:
    """An overlay that requires "quickly" and "slowly" and is not installed."""
    (tmp_path / "overlays").mkdir()
    (tmp_path / "requirements-of-test.txt").write_text("# requirements for tests\nquickly==1.0\nslowly==1.0\n")
    return Overlay("of-test", 1, tmp_path)


@pytest.fixture
def overlays() -> Iterator[OverlayInstaller]:
    installer = OverlayInstaller()
    yield installer
    installer.close()


def loader_with(overlay: Overlay) -> Loader:
    return dataclasses.replace(ECHO, packages=("quickly", "slowly"), overlay=overlay, install="press the button")


def wait_until_ended(overlays: OverlayInstaller, overlay: Overlay) -> Installation:
    """Wait until the installation has ended and return its state."""
    wait_until(lambda: not overlays.status(overlay).in_progress, SECONDS)
    return overlays.status(overlay)


def install(overlays: OverlayInstaller, overlay: Overlay, force: bool = False) -> Installation:
    overlays.start(overlay, force)
    return wait_until_ended(overlays, overlay)


def names(overlay: Overlay) -> list[str]:
    """Return the names in the folder of overlays, except the lock file."""
    return sorted(path.name for path in overlay.folder.parent.iterdir() if path.name != f".{overlay.name}.lock")


@contextlib.contextmanager
def another_process(overlay: Overlay, early: bool = False) -> Iterator[subprocess.Popen[str]]:
    """Run a process that installs the overlay and prints the result, or the early build of a first start."""
    program = (
        "import time; from pathlib import Path; from modules.setup import early_build;"
        "from modules.loaders.overlay import Overlay; from modules.setup.overlay_installer import OverlayInstaller;"
        f"overlay = Overlay({overlay.name!r}, {overlay.megabytes}, Path({str(overlay.root)!r}))\n"
    )
    if early:
        program += "early_build.build(overlay)"
    else:
        program += (
            "owner = OverlayInstaller(); owner.start(overlay)\n"
            "while owner.status(overlay).in_progress: time.sleep(0.02)\n"
            "print(owner.status(overlay).state)"
        )
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_an_overlay_counts_as_installed_only_when_it_is_complete(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    loader = loader_with(overlay)
    assert overlays.status(overlay) == Installation("absent")
    overlays.start(overlay)
    index.await_builders(1)
    wait_until(lambda: overlays.status(overlay).done, SECONDS)
    status = overlays.status(overlay)
    assert (status.state, status.done, status.total) == ("installing", 1, 2)
    assert "slowly" in status.last_line or "metadata" in status.last_line
    assert not overlay.folder.exists() and unavailable(loader) is not None
    index.open_gate()
    wait_until(overlay.folder.exists, SECONDS)
    assert unavailable(loader) is None, "the overlay is complete as soon as its folder exists"
    assert wait_until_ended(overlays, overlay) == Installation("installed")
    assert {"quickly", "slowly"} <= {path.name for path in overlay.folder.iterdir()}
    assert names(overlay) == ["of-test"]


def test_the_error_names_the_install_command_and_the_size(overlay: Overlay) -> None:
    reason = unavailable(loader_with(overlay))
    assert reason is not None and reason.install == "press the button"
    for language in ("en", "zh"):
        assert "1 MB" in reason.say(language) and "press the button" in reason.say(language)


def test_a_killed_installation_ends_its_pip_and_starts_over(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    with another_process(overlay) as first:
        index.await_builders(1)
        first.kill()
        first.wait()
        leftovers = names(overlay)
        assert len(leftovers) == 1 and leftovers[0].startswith(".of-test-")
        wait_until(lambda: not any(map(is_running, index.builders())), SECONDS)
        overlays.start(overlay)
        index.await_builders(2)
        assert set(names(overlay)).isdisjoint(leftovers)
        index.open_gate()
        assert wait_until_ended(overlays, overlay) == Installation("installed")
    assert len(index.builders()) == 2 and names(overlay) == ["of-test"]


def test_of_two_processes_one_installs_and_the_other_waits(overlay: Overlay, index: PackageIndex) -> None:
    with another_process(overlay) as first, another_process(overlay) as second:
        index.await_builders(1)
        time.sleep(1)  # long enough for the second process to start waiting
        index.open_gate()
        assert [process.communicate(timeout=SECONDS)[0] for process in (first, second)] == [
            "installed\n",
            "installed\n",
        ]
    assert len(index.builders()) == 1


def test_waiting_for_another_process_can_be_cancelled(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    with another_process(overlay) as first:
        index.await_builders(1)
        overlays.start(overlay)
        wait_until(lambda: overlays.status(overlay).state == "waiting", SECONDS)
        overlays.cancel(overlay)
        assert wait_until_ended(overlays, overlay) == Installation("absent")
        index.open_gate()
        assert first.communicate(timeout=SECONDS)[0] == "installed\n"
    assert overlays.status(overlay) == Installation("installed")


def test_a_waiting_process_shows_the_progress_of_the_installing_one(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    with another_process(overlay):
        index.await_builders(1)
        overlays.start(overlay)
        wait_until(lambda: overlays.status(overlay).total == 2, SECONDS)
        status = overlays.status(overlay)
        assert (status.state, status.phase) == ("waiting", "fetching")
        assert describe(status, overlay, "en") == "overlays/of-test: 1 of 2 packages downloaded"
        index.open_gate()
        assert wait_until_ended(overlays, overlay) == Installation("installed")


def test_cancelling_the_wait_for_the_early_build_ends_the_build(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    with another_process(overlay, early=True) as first:
        index.await_builders(1)
        overlays.start(overlay)
        wait_until(lambda: overlays.status(overlay).total == 2, SECONDS)
        overlays.cancel(overlay)
        assert wait_until_ended(overlays, overlay) == Installation("absent")
        assert first.wait(SECONDS) == 0
    assert names(overlay) == [] and not is_running(index.builders()[0])


def test_the_early_build_ends_with_its_parent_process(overlay: Overlay, index: PackageIndex) -> None:
    with another_process(overlay, early=True) as first:
        index.await_builders(1)
        assert first.stdin is not None
        first.stdin.close()
        assert first.wait(SECONDS) == 0
    assert names(overlay) == [] and not is_running(index.builders()[0])


def test_the_waiting_process_reports_why_the_early_build_failed(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    overlay.requirements.write_text("never-published==3\n")
    with another_process(overlay, early=True) as first:
        overlays.start(overlay)
        assert wait_until_ended(overlays, overlay).error is not None
        assert first.wait(SECONDS) == 0


def test_a_cancelled_installation_leaves_no_files_and_no_process(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    overlays.start(overlay)
    index.await_builders(1)
    overlays.cancel(overlay)
    assert wait_until_ended(overlays, overlay) == Installation("absent")
    assert names(overlay) == []
    wait_until(lambda: not is_running(index.builders()[0]), SECONDS)
    index.open_gate()
    assert install(overlays, overlay) == Installation("installed")


def test_closing_the_installer_ends_its_installations(overlay: Overlay, index: PackageIndex) -> None:
    installer = OverlayInstaller()
    installer.start(overlay)
    index.await_builders(1)
    installer.close()
    assert names(overlay) == []


def test_a_missing_package_is_an_error_with_the_output_of_pip(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    overlay.requirements.write_text("quickly==1.0\nnever-published==3\n")
    failed = install(overlays, overlay)
    assert failed.state == "failed" and isinstance(failed.error, InstallFailed)
    for language in ("en", "zh"):
        summary, _, output = failed.error.say(language).partition("\n")
        assert "of-test" in summary and "never-published" not in summary and "never-published" in output
    assert "no version for this Python" in failed.error.say("en")
    assert names(overlay) == []
    index.add_wheel("never_published", "3")
    assert install(overlays, overlay) == Installation("installed"), "the installation can be retried"


def test_an_unreachable_index_is_named_as_the_cause(
    overlays: OverlayInstaller, overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # the user's own index is used
    monkeypatch.setenv("PIP_RETRIES", "1")
    overlay.requirements.write_text("never-published==3\n")
    failed = install(overlays, overlay)
    assert failed.error is not None
    assert "PIP_INDEX_URL" in failed.error.say("en") and "127.0.0.1" in failed.error.say("en")


def test_too_little_disk_space_is_an_error_before_any_download(overlays: OverlayInstaller, overlay: Overlay) -> None:
    huge = dataclasses.replace(overlay, megabytes=10**12)
    failed = install(overlays, huge)
    assert failed.error is not None and "1500000000000 MB" in failed.error.say("en")
    assert names(overlay) == []


def test_a_folder_that_cannot_be_created_is_an_error(overlays: OverlayInstaller, overlay: Overlay) -> None:
    overlay.folder.parent.rmdir()
    overlay.folder.parent.write_text("a file where the folder should be")
    failed = install(overlays, overlay)
    assert isinstance(failed.error, InstallFailed) and "overlays" in failed.error.words


def test_an_overlay_with_outdated_requirements_is_reinstalled(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    index.open_gate()
    assert install(overlays, overlay) == Installation("installed")
    index.add_wheel("quickly", "2.0")
    overlay.requirements.write_text("quickly==2.0\nslowly==1.0\n")
    assert overlays.status(overlay) == Installation("absent")
    assert unavailable(loader_with(overlay)) is not None
    assert install(overlays, overlay) == Installation("installed")
    assert '"2.0"' in (overlay.folder / "quickly" / "__init__.py").read_text()
    assert not (overlay.folder / "quickly-1.0.dist-info").exists()
    assert names(overlay) == ["of-test"]


def test_the_old_overlay_stays_until_the_new_one_is_complete(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    index.open_gate()
    install(overlays, overlay)
    shutil.rmtree(overlay.folder / "quickly")
    assert unavailable(loader_with(overlay)) is not None, "the stamp matches, but a package is missing"
    assert install(overlays, overlay) == Installation("installed") and not (overlay.folder / "quickly").exists()
    (index.folder / "quickly-1.0-py3-none-any.whl").rename(index.folder / "renamed")
    assert install(overlays, overlay, force=True).state == "failed"
    assert names(overlay) == ["of-test"] and (overlay.folder / "slowly").exists()
    (index.folder / "renamed").rename(index.folder / "quickly-1.0-py3-none-any.whl")
    assert install(overlays, overlay, force=True) == Installation("installed")
    assert unavailable(loader_with(overlay)) is None


def test_the_old_overlay_comes_back_if_the_new_one_cannot_take_its_place(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.open_gate()
    install(overlays, overlay)
    replace = os.replace

    def refuse_packages(source: Path, target: Path) -> None:
        if source.name == "packages":
            raise PermissionError("in use")
        replace(source, target)

    monkeypatch.setattr(os, "replace", refuse_packages)
    assert install(overlays, overlay, force=True).state == "failed"
    assert names(overlay) == ["of-test"] and unavailable(loader_with(overlay)) is None


def test_an_overlay_requested_twice_is_installed_once(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    for _ in range(3):
        overlays.start(overlay)
    index.open_gate()
    wait_until_ended(overlays, overlay)
    overlays.start(overlay)
    assert overlays.status(overlay) == Installation("installed") and len(index.builders()) == 1


@pytest.mark.parametrize(
    "loader", [loader for loader in LOADERS.values() if loader.overlay], ids=lambda loader: loader.name
)
def test_overlays_pin_all_packages_and_contain_no_torch(loader: Loader) -> None:
    assert loader.overlay is not None
    lines = [line for line in loader.overlay.requirements.read_text().splitlines() if not line.startswith("#")]
    assert len(lines) == loader.overlay.package_count
    pinned = {re.fullmatch(r"([\w-]+)==[\w.]+", line)[1].lower() for line in lines}  # type: ignore[index]
    assert not pinned & {"torch", "numpy", "triton", "intel-extension-for-pytorch"}
    assert os.path.commonpath([loader.overlay.folder, ROOT / "overlays"]) == str(ROOT / "overlays")


# -- damage ------------------------------------------------------------------------------------------------------------

NO_OPTIONS = resolve(ECHO, model={}, saved={}, flags={}, form={})


def truncate_a_file(folder: Path) -> None:
    (folder / "quickly" / "__init__.py").write_text("")


def delete_a_file(folder: Path) -> None:
    (folder / "slowly" / "__init__.py").unlink()


def delete_a_package(folder: Path) -> None:
    shutil.rmtree(folder / "slowly")
    shutil.rmtree(folder / "slowly-1.0.dist-info")


@pytest.mark.parametrize(
    ("damage", "damaged_file"),
    [(truncate_a_file, "quickly/__init__.py"), (delete_a_file, "slowly/__init__.py"), (delete_a_package, "of-test")],
)
@pytest.mark.parametrize("model", ["boom", "segv"])
def test_a_load_with_a_damaged_overlay_names_the_damage_and_offers_reinstallation(
    overlays: OverlayInstaller,
    overlay: Overlay,
    index: PackageIndex,
    damage: Callable[[Path], None],
    damaged_file: str,
    model: str,
) -> None:
    index.open_gate()
    install(overlays, overlay)
    damage(overlay.folder)
    loader, manager = dataclasses.replace(loader_with(overlay), packages=("quickly",)), ModelManager()
    assert unavailable(loader) is None, "the damage is not noticed before a load"
    with pytest.raises(LoaderUnavailable, match="damaged") as refused:
        manager.load(LoadPlan(record(model), loader, NO_OPTIONS))
    for language in ("en", "zh"):
        assert damaged_file in refused.value.say(language) and "overlays/of-test" in refused.value.say(language)
    assert refused.value.install == "press the button"
    assert manager.status.error is refused.value
    assert overlays.status(overlay) == Installation("absent") and unavailable(loader) is not None
    assert install(overlays, overlay) == Installation("installed")
    with contextlib.closing(manager.load(LoadPlan(record("good"), loader, NO_OPTIONS))):
        assert manager.status.state == "ready"


def test_a_load_that_fails_for_another_reason_keeps_the_overlay(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    index.open_gate()
    install(overlays, overlay)
    with pytest.raises(LoadFailed, match="broke"):
        ModelManager().load(LoadPlan(record("boom"), loader_with(overlay), NO_OPTIONS))
    assert overlay.is_installed


def test_the_installed_overlays_are_undamaged() -> None:
    """This would fail for packages that change their own files."""
    for name in ("AutoGPTQ", "ExLlamav2"):
        overlay = LOADERS[name].overlay
        assert overlay is not None and overlay.is_installed and not overlay.find_damage()
    (extra,) = LOADERS["Transformers"].extras
    assert extra.overlay is not None and extra.overlay.is_installed and not extra.overlay.find_damage()


# -- without pip -------------------------------------------------------------------------------------------------------


@pytest.fixture
def empty(tmp_path: Path) -> Overlay:
    """An overlay whose installation does not get as far as pip."""
    (tmp_path / "overlays").mkdir()
    (tmp_path / "requirements-of-test.txt").write_text("some-package==1.0\n")
    return Overlay("of-test", 1, tmp_path)


def test_progress_of_another_version_of_this_program_is_not_shown(
    overlays: OverlayInstaller, empty: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay_installer, "POLL_SECONDS", 0.01)
    parent = empty.folder.parent
    (parent / ".of-test-1").mkdir()
    writer = ProgressWriter(parent / ".of-test-1", interruptible=False)
    writer.write({"done": 1, "total": 3})
    with (parent / ".of-test.lock").open("w") as lock:
        file_lock.acquire(lock.fileno())
        overlays.start(empty)
        wait_until(lambda: overlays.status(empty) == Installation("waiting", 1, 3), 3)
        writer.write({"done": 1, "total": 3, "packages": ["a", "b"]})
        wait_until(lambda: overlays.status(empty) == Installation("waiting"), 3)
        overlays.cancel(empty)
        assert wait_until_ended(overlays, empty) == Installation("absent")


def test_an_unexpected_failure_is_logged(
    overlays: OverlayInstaller, empty: Overlay, caplog: pytest.LogCaptureFixture
) -> None:
    empty.requirements.write_bytes(b"some-package==1.0 # \xff\n")
    failed = install(overlays, empty)
    assert failed.state == "failed" and isinstance(failed.error, InternalError)
    wait_until(lambda: "an installation failed" in caplog.text and "UnicodeDecodeError" in caplog.text, 3)
