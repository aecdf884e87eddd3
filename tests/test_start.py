"""start.sh in small projects, without network; test_fresh_clone.py tests it with the real program.

Each test has a project folder with the real scripts, a server.py that prints its arguments, and requirements that
need no network. PATH is a folder of links to the few programs that start.sh uses, so that tests do not depend on the
programs of this machine.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modules.core.paths import ROOT
from modules.loaders.overlay import Overlay
from tests.support.downloading import until
from tests.support.package_index import PackageIndex, is_running

pytestmark = pytest.mark.usefixtures("whole_program")

TOOLS = "bash sh env dirname readlink"
NO_INDEX = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0", "PIP_DEFAULT_TIMEOUT": "2"}


class Machine:
    """A project folder and the environment in which start.sh runs."""

    def __init__(self, folder: Path) -> None:
        self.project = folder / "新 folder"
        self.bin = folder / "bin"
        self.home = folder / "home"
        for directory in (self.project, self.bin, self.home):
            directory.mkdir(parents=True)
        for tool in TOOLS.split():
            (self.bin / tool).symlink_to(str(shutil.which(tool)))
        shutil.copytree(ROOT / "scripts", self.project / "scripts")
        shutil.copytree(ROOT / "modules", self.project / "modules", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "start.sh", self.project)
        self.require("# nothing")
        (self.project / "server.py").write_text("import os, sys; print(os.getcwd(), sys.argv[1:])\n")
        self.environment = {
            "PATH": str(self.bin),
            "HOME": str(self.home),
            "PYTHON": sys.executable,
            "PIP_CONFIG_FILE": "/dev/null",
            **NO_INDEX,
        }

    def require(self, *lines: str) -> None:
        (self.project / "requirements.txt").write_text("\n".join([*lines, ""]))

    def install_tool(self, name: str, script: str) -> None:
        """Put a shell script of this name on PATH."""
        path = self.bin / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def start(self, *flags: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self.run([str(self.project / "start.sh"), *flags], **variables)

    def run(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment | variables, cwd="/", capture_output=True, text=True, timeout=120, check=False
        )

    def begin(self, *flags: str) -> subprocess.Popen[str]:
        """Start start.sh in its own process group, so that it can be interrupted."""
        command = [str(self.project / "start.sh"), *flags]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, env=self.environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    @property
    def log(self) -> str:
        return (self.project / "logs/setup.log").read_text()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Machine:
    """A machine that is set up, for tests that do not change it."""
    machine = Machine(tmp_path_factory.mktemp("ready"))
    assert machine.start().returncode == 0
    return machine


@pytest.fixture
def modifiable(machine: Machine, ready: Machine) -> Machine:
    """A machine set up like `ready`, which the test may change."""
    shutil.copytree(ready.project, machine.project, symlinks=True, dirs_exist_ok=True)
    return machine


def assert_refused(run: subprocess.CompletedProcess[str], chinese: str, english: str) -> None:
    """Check that `run` failed with these messages and without a traceback."""
    assert run.returncode != 0
    assert chinese in run.stderr
    assert english in run.stderr
    assert "Traceback" not in run.stdout + run.stderr


# -- failures ----------------------------------------------------------------------------------------------------------


def test_an_unsupported_python_is_rejected_and_named(machine: Machine, subtests: pytest.Subtests) -> None:
    for version in ("3.8", "3.9", "3.14"):
        with subtests.test(version):
            machine.install_tool("python3", f"echo '{version} venv'")
            assert_refused(machine.start(PYTHON=""), "需要 Python 3.10 至 3.13", f"found: python3={version}")


def test_a_missing_python_is_reported(machine: Machine) -> None:
    assert_refused(
        machine.start(PYTHON=""), "未找到", "Python 3.10 to 3.13 is required but was not found (found: none)"
    )


def test_a_later_supported_python_is_used_if_the_first_does_not_run(machine: Machine) -> None:
    machine.install_tool("python3.11", "exit 127  # a pyenv shim without its Python")
    (machine.bin / "python3").symlink_to(sys.executable)
    assert machine.start(PYTHON="").returncode == 0


def test_a_python_without_venv_prints_what_to_install(machine: Machine) -> None:
    machine.install_tool("python3", "echo 3.11")
    assert_refused(machine.start(PYTHON=""), "缺少 venv 模块", "apt install python3.11-venv")


def test_an_unreachable_index_is_named_with_a_remedy_and_the_log(modifiable: Machine) -> None:
    modifiable.require("no-such-package==1.0")
    run = modifiable.start()
    assert_refused(run, "无法访问软件包索引", "set PIP_INDEX_URL to a PyPI mirror")
    assert str(modifiable.project / "logs/setup.log") in run.stderr
    assert "no-such-package" in modifiable.log


SLOW_BACKEND = """
import pathlib, time

def get_requires_for_build_wheel(*_):
    pathlib.Path("started").touch()
    time.sleep(60)
"""


def test_an_interrupted_installation_prints_no_error(modifiable: Machine, tmp_path: Path) -> None:
    package = tmp_path / "slow"
    package.mkdir()
    (package / "pyproject.toml").write_text(
        '[project]\nname = "slow"\nversion = "1"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    (package / "backend.py").write_text(SLOW_BACKEND)
    modifiable.require(f"slow @ {package.as_uri()}")
    run = modifiable.begin()
    while not (package / "started").exists():
        assert run.poll() is None
        time.sleep(0.05)
    os.killpg(run.pid, signal.SIGINT)
    assert run.communicate(timeout=20)[1].strip() == ""
    assert run.returncode == 130
    assert not (modifiable.project / ".venv/unfinished").exists()


def test_chinese_comes_first_if_the_language_is_chinese(machine: Machine) -> None:
    chinese_first = machine.start(PYTHON="", LANG="zh_CN.UTF-8").stderr.splitlines()
    english_first = machine.start(PYTHON="", LANG="en_US.UTF-8").stderr.splitlines()
    assert len(chinese_first) == 2
    assert chinese_first == english_first[::-1]


# -- success -----------------------------------------------------------------------------------------------------------


def test_the_flags_reach_the_server_in_the_project_folder(ready: Machine) -> None:
    run = ready.start("--listen-port", "1 2", "--no-demo", "--model-dir=模型")
    assert (
        run.stdout.strip() == f"{ready.project} ['--prepare', '--listen-port', '1 2', '--no-demo', '--model-dir=模型']"
    )


def test_a_second_start_installs_nothing_and_prints_nothing(ready: Machine) -> None:
    before = ready.log
    assert ready.start().stdout.strip() == f"{ready.project} ['--prepare']"
    assert ready.log == before


def test_start_sh_works_through_sh_and_a_link_and_without_a_home(ready: Machine) -> None:
    link = ready.home / "launch"
    link.symlink_to(ready.project / "start.sh")
    without_home = ["env", "-u", "HOME", "sh", str(link)]
    assert ready.run(without_home).stdout.strip() == f"{ready.project} ['--prepare']"


def test_changed_requirements_are_installed(modifiable: Machine) -> None:
    stamp = modifiable.project / ".venv/installed-requirements.txt"
    before = stamp.read_text()
    modifiable.require("pip")
    assert "Installing" in modifiable.start().stdout
    assert stamp.read_text() != before


def test_a_killed_installation_starts_over(modifiable: Machine) -> None:
    leftover = modifiable.project / ".venv/half-written"
    for path in (leftover, modifiable.project / ".venv/unfinished"):
        path.touch()
    assert "Installing" in modifiable.start().stdout
    assert not leftover.exists()


def test_a_failed_installation_that_changed_nothing_keeps_the_environment(modifiable: Machine) -> None:
    kept = modifiable.project / ".venv/kept"
    kept.touch()
    modifiable.require("no-such-package==1.0")
    assert modifiable.start().returncode != 0
    modifiable.require("# nothing")
    assert "Installing" not in modifiable.start().stdout
    assert kept.exists()


def slow_llamacpp(machine: Machine, folder: Path) -> PackageIndex:
    """Make the machine lack one small package and an overlay for llama.cpp whose build waits for the gate."""
    index = PackageIndex(folder / "index")
    index.add_slow()
    for name in ("quickly", "llama_cpp_python"):
        index.add_wheel(name)
    machine.environment |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index.folder)}
    machine.require("quickly")
    (machine.project / "requirements-llamacpp.txt").write_text("llama-cpp-python==1.0\nslowly==1.0\n")
    return index


def test_llamacpp_is_built_while_packages_install_and_continues_under_the_server(
    modifiable: Machine, tmp_path: Path
) -> None:
    index = slow_llamacpp(modifiable, tmp_path)
    overlay = Overlay("llamacpp", 1, modifiable.project)
    (modifiable.project / "server.py").write_text("print('up', flush=True)\nimport time\ntime.sleep(60)\n")
    with modifiable.begin() as run:
        assert run.stdout is not None
        until(lambda: run.stdout.readline() == "up\n", 30)
        index.await_builders(1)
        assert not overlay.is_installed, "the server started before the build ended"
        index.open_gate()
        until(lambda: overlay.is_installed, 30)
        run.kill()


def test_an_early_build_ends_with_start_sh(modifiable: Machine, tmp_path: Path) -> None:
    index = slow_llamacpp(modifiable, tmp_path)
    (modifiable.project / "server.py").write_text("import time\ntime.sleep(60)\n")
    with modifiable.begin() as run:
        index.await_builders(1)
        run.kill()
    until(lambda: not any(is_running(pid) for pid in index.builders()), 30)
    until(lambda: not list(modifiable.project.glob("overlays/.llamacpp-*")), 30)


def test_a_second_start_waits_for_the_first_installation(modifiable: Machine) -> None:
    modifiable.require("pip")
    runs = [modifiable.begin() for _ in range(2)]
    outputs = [run.communicate(timeout=120)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0]
    assert sum("Installing" in output for output in outputs) == 1
