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
from modules.loaders.overlay import STAMP, Overlay
from modules.loaders.registry import Extra, Loader
from modules.setup import install, overlay_installer
from modules.setup.install import describe, describe_progress, installation_in_progress, wait, wait_for_rpc
from modules.setup.overlay_installer import Installation, OverlayInstaller
from modules.system import file_lock
from tests.conftest import ECHO
from tests.support.echo_plans import wait_until
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


# -- without pip -------------------------------------------------------------------------------------------------------


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """A loader with an overlay for which no disk has the space, so that its installation fails before pip starts."""
    monkeypatch.setattr(install, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(overlay_installer, "POLL_SECONDS", 0.01)
    overlay = Overlay("of-test", 10**12, tmp_path)
    overlay.requirements.write_text("some-package==1.0\n")
    overlay.folder.parent.mkdir()
    return dataclasses.replace(ECHO, packages=("no_such_package",), overlay=overlay)


def test_progress_is_described_by_what_is_known_of_it(subtests: pytest.Subtests) -> None:
    overlay = Overlay("of-test", 1, title="llama.cpp")
    compiling = Installation("installing", 3, 9, phase="compiling")
    for installation, texts in (
        (
            Installation("waiting"),
            ("Waiting for another process that is installing it ...", "另一进程正在安装，等待其完成……"),
        ),
        (Installation("installing", 1, 2), ("llama.cpp: 1 of 2 packages downloaded", "llama.cpp：已下载 1/2 个软件包")),
        (Installation("installing"), ("Downloading the source of llama.cpp", "正在下载 llama.cpp 的源代码")),
        (dataclasses.replace(compiling, total=0), ("Preparing to compile llama.cpp", "正在准备编译 llama.cpp")),
        (compiling, ("Compiling llama.cpp: 3 of 9", "正在编译 llama.cpp：3/9")),
        (
            dataclasses.replace(compiling, seconds_left=59.0),
            ("Compiling llama.cpp: 3 of 9, less than a minute left", "正在编译 llama.cpp：3/9，剩余不到 1 分钟"),
        ),
        (
            dataclasses.replace(compiling, seconds_left=150.0),
            ("Compiling llama.cpp: 3 of 9, about 2 min left", "正在编译 llama.cpp：3/9，约剩 2 分钟"),
        ),
    ):
        with subtests.test(ascii(texts[0])):
            assert tuple(describe(installation, overlay, language) for language in ("en", "zh")) == texts


def test_a_load_is_told_that_its_packages_are_being_installed_or_why_they_were_not(large: Loader) -> None:
    overlays, overlay = OverlayInstaller(), large.overlay
    assert overlay is not None and installation_in_progress(large, "", overlays) is None
    with (overlay.folder.parent / ".of-test.lock").open("w") as lock:
        file_lock.acquire(lock.fileno())
        overlays.start(overlay)
        wait_until(lambda: overlays.status(overlay).state == "waiting", 3)
        error = installation_in_progress(large, "", overlays)
        assert (
            error is not None and "Waiting for another process" in error.say("en") and "等待其完成" in error.say("zh")
        )
    wait_until(lambda: not overlays.status(overlay).in_progress, 3)
    assert installation_in_progress(large, "", overlays) is None
    assert isinstance(describe_progress(large, overlay, overlays), InstallFailed)


def test_an_rpc_node_needs_llama_cpp_and_its_backend(large: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    assert large.overlay is not None
    backend = dataclasses.replace(large.overlay, title="llama.cpp RPC")
    monkeypatch.setattr(install, "RPC", backend)
    monkeypatch.setattr(install, "find_loader", lambda _: large)
    with pytest.raises(InstallFailed, match="Could not install overlays/of-test"):
        wait_for_rpc("en", OverlayInstaller())
    monkeypatch.setattr(install, "find_loader", lambda _: dataclasses.replace(ECHO, packages=("json",)))
    with pytest.raises(InstallFailed, match=r"Could not install llama\.cpp RPC"):
        wait_for_rpc("en", OverlayInstaller())
    backend.folder.mkdir()
    (backend.folder / STAMP).write_text(backend.fingerprint)
    wait_for_rpc("en", OverlayInstaller())
