"""`--install`: output and exit status. test_overlay_installer.py tests the installation itself."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modules.core.errors import InstallFailed, LoaderUnavailable, Unsupported
from modules.core.paths import ROOT
from modules.loaders.availability import unavailable
from modules.loaders.overlay import Overlay
from modules.loaders.registry import Extra, Loader
from modules.setup.install import wait
from modules.setup.overlay_installer import OverlayInstaller
from tests.conftest import ECHO
from tests.support.package_index import PackageIndex


@pytest.fixture
def loader(tmp_path: Path, package_index: PackageIndex) -> Loader:
    """A loader with an overlay of two packages that are not installed."""
    package_index.add_wheel("first_package")
    package_index.add_wheel("second_package")
    overlay = Overlay("of-test", 1, tmp_path)
    overlay.requirements.write_text("first-package==1.0\nsecond-package==1.0\n")
    return dataclasses.replace(ECHO, packages=("first_package", "second_package"), overlay=overlay)


@pytest.mark.parametrize(("language", "message"), [("en", "echo is ready."), ("zh", "echo 已可使用。")])
def test_packages_are_installed_and_progress_is_printed(
    loader: Loader, language: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    wait(loader, language, OverlayInstaller())
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == message and len(lines) >= 2
    assert unavailable(loader) is None
    wait(loader, language, OverlayInstaller())
    assert capsys.readouterr().err.splitlines() == [message]


def test_files_deleted_from_an_overlay_are_restored(loader: Loader) -> None:
    wait(loader, "en", OverlayInstaller())
    assert loader.overlay is not None
    (loader.overlay.folder / "second_package").rename(loader.overlay.folder / "renamed")
    wait(loader, "en", OverlayInstaller())
    assert unavailable(loader) is None


def test_a_failed_installation_is_an_error(loader: Loader) -> None:
    assert loader.overlay is not None
    loader.overlay.requirements.write_text("never-published==1\n")
    with pytest.raises(InstallFailed, match="never-published"):
        wait(loader, "en", OverlayInstaller())


def test_a_package_missing_from_the_requirements_is_named(loader: Loader) -> None:
    with pytest.raises(LoaderUnavailable, match="third_package"):
        wait(dataclasses.replace(loader, packages=("third_package",)), "en", OverlayInstaller())


def test_nothing_is_installed_for_a_loader_without_its_gpu(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modules.loaders.availability.has_nvidia_gpu", lambda: False)
    with pytest.raises(LoaderUnavailable, match="NVIDIA"):
        wait(dataclasses.replace(loader, kernels="no_such_kernels"), "en", OverlayInstaller())
    assert loader.overlay is not None and not loader.overlay.folder.exists()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_command_for_packages_of_the_main_environment_is_shown(language: str) -> None:
    extra = Extra(("gguf",), ("no_such_package",), "pip install that")
    with pytest.raises(Unsupported) as refused:
        wait(dataclasses.replace(ECHO, extras=(extra,)), language, OverlayInstaller())
    assert refused.value.say(language).endswith("\npip install that")


def test_ctrl_c_leaves_no_files(loader: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = PackageIndex(tmp_path / "slow-index")
    index.use(monkeypatch)
    index.add_slow()
    assert loader.overlay is not None
    loader.overlay.requirements.write_text("slowly==1.0\n")
    program = (
        "import dataclasses; from pathlib import Path; from modules.setup.install import wait;"
        "from modules.loaders.overlay import Overlay; from modules.setup.overlay_installer import OverlayInstaller;"
        f"from tests.conftest import ECHO; overlay = Overlay('of-test', 1, Path({str(tmp_path)!r}));"
        "wait(dataclasses.replace(ECHO, packages=('slowly',), overlay=overlay), 'en', OverlayInstaller())"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        index.await_builders(1)
        process.send_signal(signal.SIGINT)
        assert "KeyboardInterrupt" in process.communicate(timeout=60)[1]
    assert [path.name for path in loader.overlay.folder.parent.iterdir()] == [".of-test.lock"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"LC_ALL": "C"}
    return subprocess.run(
        [sys.executable, "server.py", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )


@pytest.mark.usefixtures("whole_program")
@pytest.mark.parametrize(
    ("name", "status", "expected"),
    [("AutoGTPQ", 2, "Did you mean 'AutoGPTQ'?"), ("llamacpp", 0, "llama.cpp is ready.")],
)
def test_the_install_flag_accepts_any_alias_of_a_loader_and_exits(name: str, status: int, expected: str) -> None:
    result = run("--install", name)
    assert (result.returncode, result.stdout) == (status, "") and expected in result.stderr
