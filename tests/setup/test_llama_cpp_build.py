"""The build of llama.cpp: progress, resuming, reuse and errors, with real pip and a small package."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.loaders.overlay import Overlay
from modules.setup import install_errors, llama_cpp_build
from modules.setup.build_progress import BuildProgress
from modules.setup.install import describe
from modules.setup.llama_cpp_build import LlamaBuild, NoCompiler
from modules.setup.overlay_installer import Installation, OverlayInstaller
from modules.setup.pip import Pip, PipFailed
from tests.support.echo_plans import wait_until
from tests.support.package_index import PackageIndex, is_running

STEPS = 5
SECONDS = 110


@pytest.fixture
def index(package_index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> PackageIndex:
    package_index.add_compiled(STEPS)
    package_index.add_wheel("another")
    for setting in ("CMAKE_ARGS", "CMAKE_BUILD_PARALLEL_LEVEL"):
        monkeypatch.delenv(setting, raising=False)
    return package_index


def overlay_in(root: Path) -> Overlay:
    (root / "overlays").mkdir(parents=True)
    (root / "requirements-of-test.txt").write_text("another==1.0\ncompiled==1.0\n")
    return Overlay("of-test", 1, root, compiled="compiled", title="llama.cpp")


@pytest.fixture
def overlay(tmp_path: Path, index: PackageIndex) -> Overlay:
    return overlay_in(tmp_path / "新 machine")


@pytest.fixture
def overlays() -> Iterator[OverlayInstaller]:
    installer = OverlayInstaller()
    yield installer
    installer.close()


def begin(overlays: OverlayInstaller, overlay: Overlay, steps: int) -> Installation:
    """Start an installation, and wait until the build has completed a number of steps."""
    overlays.start(overlay)
    wait_until(lambda: overlays.status(overlay).done == steps or not overlays.status(overlay).in_progress, SECONDS)
    return overlays.status(overlay)


def wait_until_ended(overlays: OverlayInstaller, overlay: Overlay) -> Installation:
    wait_until(lambda: not overlays.status(overlay).in_progress, SECONDS)
    return overlays.status(overlay)


def install(overlays: OverlayInstaller, overlay: Overlay) -> Installation:
    overlays.start(overlay)
    return wait_until_ended(overlays, overlay)


def test_steps_are_counted_and_an_interrupted_build_resumes(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    index.allow(2)
    status = begin(overlays, overlay, 2)
    assert (status.state, status.phase, status.total) == ("installing", "compiling", STEPS)
    assert describe(status, overlay, "en") == "Compiling llama.cpp: 2 of 5"
    assert describe(status, overlay, "zh") == "正在编译 llama.cpp：2/5"
    overlays.cancel(overlay)
    assert wait_until_ended(overlays, overlay) == Installation("absent") and overlay.build_folder.is_dir()
    wait_until(lambda: not is_running(index.builds()[0]["compiler"]), SECONDS)

    index.allow(3)
    status = begin(overlays, overlay, 3)
    assert (status.done, status.total) == (3, STEPS), "the count continues where the build was interrupted"
    index.allow(STEPS)
    assert wait_until_ended(overlays, overlay) == Installation("installed")
    assert {"compiled", "another"} <= {path.name for path in overlay.folder.iterdir()}
    assert not overlay.build_folder.exists(), "the build folder is deleted"

    first, second = index.builds()
    assert first["source"] == second["source"], (
        "another path would change the compiler's command lines, so that nothing is reused"
    )
    assert first["niceness"] >= llama_cpp_build.NICENESS
    assert "LLAVA_BUILD=ON" in first["defines"]


def test_another_clone_reuses_the_wheel_unless_settings_differ(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert install(overlays, overlay) == Installation("installed")
    monkeypatch.setenv("CMAKE_BUILD_PARALLEL_LEVEL", "1")  # does not change the code
    assert install(overlays, overlay_in(tmp_path / "second")) == Installation("installed")
    assert len(index.builds()) == 1
    monkeypatch.setenv("CMAKE_ARGS", "-DGGML_CUDA=on")
    assert install(overlays, overlay_in(tmp_path / "third")) == Installation("installed")
    assert len(index.builds()) == 2


def test_a_build_interrupted_with_other_settings_starts_over(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.allow(2)
    begin(overlays, overlay, 2)
    overlays.cancel(overlay)
    wait_until_ended(overlays, overlay)
    monkeypatch.setenv("CXX", "g++")
    index.allow(1)
    assert begin(overlays, overlay, 1).done == 1
    index.allow(STEPS)
    assert wait_until_ended(overlays, overlay) == Installation("installed")


def test_a_prebuilt_wheel_needs_no_compiler(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp_build, "has_compiler", lambda: False)
    failed = install(overlays, overlay)
    assert failed.error is not None
    assert "no C++ compiler" in failed.error.say("en") and "没有找到 C++ 编译器" in failed.error.say("zh")
    index.add_wheel("compiled")
    assert install(overlays, overlay) == Installation("installed")
    assert index.builds() == []


def test_an_unreachable_index_is_named_even_without_a_compiler(
    overlays: OverlayInstaller, overlay: Overlay, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llama_cpp_build, "has_compiler", lambda: False)
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    failed = install(overlays, overlay)
    assert failed.error is not None and "package index cannot be reached" in failed.error.say("en")


def test_a_failed_build_has_a_cause_and_can_be_retried(
    overlays: OverlayInstaller, overlay: Overlay, index: PackageIndex
) -> None:
    index.fail_with("c++: fatal error: Killed signal terminated program cc1plus")
    failed = install(overlays, overlay)
    assert failed.error is not None
    summary, _, output = failed.error.say("en").partition("\n")
    assert "llama.cpp" in summary and "ran out of memory" in summary
    assert "cc1plus" in output, "the compiler's output is included"
    assert "内存不足" in failed.error.say("zh")
    (index.folder / "failure").unlink()
    assert install(overlays, overlay) == Installation("installed")
    assert [build["parallel"] for build in index.builds()] == [None, "1"], (
        "the second build runs one job to save memory"
    )


def test_every_cause_is_recognized_in_the_output(subtests: pytest.Subtests) -> None:
    failed = "ERROR: Failed building wheel for llama-cpp-python"
    cases = {
        f"ggml.c:1: error: expected ';'\n{failed}": install_errors.COMPILE_FAILED,
        f"fatal error: error writing to x.o: No space left on device\n{failed}": install_errors.DISK_FULL,
        f"c++: fatal error: Killed signal terminated program cc1plus\n{failed}": install_errors.OUT_OF_MEMORY,
        f"  Killed\n  [2/83] g++ -c x.cpp\n{failed}": install_errors.OUT_OF_MEMORY,
        f"No CMAKE_CXX_COMPILER could be found.\n{failed}": install_errors.NO_COMPILER,
        "Failed to establish a new connection\nNo matching distribution found for x": install_errors.NO_NETWORK,
        "ERROR: No matching distribution found for x==1": install_errors.NO_VERSION,
        "ggml-rpc.cpp:5:1: fatal error: ggml-rpc.h: No such file or directory": install_errors.COMPILE_FAILED,
        "something else": None,
    }
    for output, cause in cases.items():
        with subtests.test(output):
            assert install_errors.explain(output) is cause


def test_the_remaining_time_is_estimated_from_the_pace(tmp_path: Path) -> None:
    seconds = 0.0
    steps = BuildProgress(tmp_path / "steps", lambda: seconds)
    for number in range(1, 11):
        seconds += 3.0
        assert steps.read(f"  [{number}/40] c++ -c x.cpp")
    assert (steps.done, steps.total, steps.seconds_left) == (10, 40, 90.0)
    assert not steps.read("  -- Configuring done (1.2s)")
    resumed = BuildProgress(tmp_path / "steps", lambda: seconds)
    resumed.read("[1/30] c++ -c y.cpp")
    assert (resumed.done, resumed.total, resumed.seconds_left) == (11, 40, None)


def test_only_the_required_version_in_the_main_environment_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    overlay = overlay_in(tmp_path)
    for folder, version, used in [
        ("site-packages", "1.0", True),
        ("site-packages", "1.0+cu124", True),
        ("site-packages", "0.9", False),
        ("somewhere", "1.0", False),  # such as an overlay on PYTHONPATH
    ]:
        with subtests.test(folder=folder, version=version):
            site = tmp_path / f"{folder}-{version}" / folder
            (site / f"compiled-{version}.dist-info").mkdir(parents=True)
            metadata = f"Metadata-Version: 2.1\nName: compiled\nVersion: {version}\n"
            (site / f"compiled-{version}.dist-info" / "METADATA").write_text(metadata)
            with monkeypatch.context() as patch:
                patch.syspath_prepend(str(site))
                assert overlay.in_environment is used


# -- pip without a cache, and no compiler ------------------------------------------------------------------------------


@pytest.fixture
def build(tmp_path: Path, whole_program: None, monkeypatch: pytest.MonkeyPatch) -> LlamaBuild:
    """A build whose pip has no cache and prints that, on a machine without programs."""
    interpreter = tmp_path / "python"
    interpreter.write_text(f"#!{shutil.which('sh')}\necho ERROR: pip cache commands can not function\nexit 1\n")
    interpreter.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    for setting in ("CXX", "CMAKE_ARGS"):
        monkeypatch.delenv(setting, raising=False)
    return LlamaBuild("compiled==1.0", tmp_path / "build", Pip(str(interpreter)), lambda *_: None)


def test_without_a_cache_and_a_compiler_a_downloaded_source_is_of_no_use(build: LlamaBuild) -> None:
    (build.folder / "source").mkdir(parents=True)
    (build.folder / "recipe").write_text(build._settings_hash())
    with pytest.raises(NoCompiler):
        build.wheel()
    assert (build.folder / "source").is_dir(), "the next attempt goes on with it"


def test_a_wheel_is_not_stored_without_a_cache(build: LlamaBuild, tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    build._store_wheel(tmp_path / "compiled-1.0-py3-none-any.whl")
    assert set(tmp_path.rglob("*")) == before


def test_only_a_missing_version_means_that_a_compiler_would_help(build: LlamaBuild) -> None:
    with pytest.raises(PipFailed, match="cache commands"):
        build.wheel()
