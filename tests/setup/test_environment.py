"""The environment .venv: when it is current, what is installed, and what a failure leaves. Scripts stand in for Python.

test_start.py runs all of it with real interpreters.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from modules.core.errors import InstallFailed
from modules.setup import install_errors
from modules.setup.environment import Environment
from modules.system import file_lock
from tests.support.echo_plans import wait_until

REQUIREMENTS = "requirements.txt"
OUTPUT = """Collecting first>=1 (from -r requirements.txt (line 1))
  Using cached first-1.0-py3-none-any.whl
Collecting second
Installing collected packages: first, second
"""
WAITING = "Waiting for another installation to finish ..."

# Answers the questions about its version and pip, and prints what the test wants pip to print.
INTERPRETER = """#!/bin/sh
case "$*" in
  *version_info*) cat "{root}/version" ;;
  "-c import pip") exit 0 ;;
  *"-m venv --clear "*) echo venv >>"{root}/calls"; cat "{root}/refusal" 2>/dev/null && exit 1
    rm -rf "{root}/.venv"; mkdir -p "{root}/.venv/bin"; cp "$0" "{root}/.venv/bin/python" ;;
  "-m pip "*) echo "$*" >>"{root}/calls"; cat "{root}/output"; exit "$(cat "{root}/status")" ;;
esac
"""


class Project:
    """A folder with requirements, and an interpreter that pip and venv are asked of."""

    def __init__(self, root: Path) -> None:
        self.root, self.environment, self.base = root, Environment(root), root / "base-python"
        self.base.write_text(INTERPRETER.format(root=root))
        self.base.chmod(0o755)
        (root / REQUIREMENTS).write_text("first\nsecond\n")
        (root / "version").write_text("3.11\n")
        self.pip_prints(OUTPUT)

    @property
    def python(self) -> Path:
        return self.environment.python

    @property
    def unfinished(self) -> Path:
        return self.environment.folder / "unfinished"

    def pip_prints(self, output: str, status: int = 0) -> None:
        (self.root / "output").write_text(output)
        (self.root / "status").write_text(str(status))

    def add_venv(self) -> None:
        """Put a working environment in place in which nothing is installed."""
        self.python.parent.mkdir(parents=True)
        shutil.copy(self.base, self.python)

    def add_stamp(self) -> None:
        """Mark the present requirements as installed."""
        digest = hashlib.sha256((self.root / REQUIREMENTS).read_bytes()).hexdigest()
        (self.environment.folder / f"installed-{REQUIREMENTS}").write_text(f"3.11 {digest}\n")

    def calls(self) -> list[str]:
        """Return what the interpreters were asked to do: "venv", or the arguments of pip up to its first option."""
        calls = self.root / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [" ".join(line.split()[1:3]) if line.startswith("-m") else line for line in lines]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project without .venv; its machine has one Python and speaks English."""
    project = Project(tmp_path)
    monkeypatch.setattr(sys, "_base_executable", str(project.base))
    monkeypatch.setenv("LC_ALL", "C")
    return project


# -- whether something has to be installed -----------------------------------------------------------------------------


def test_an_environment_is_current_while_neither_python_nor_the_requirements_change(
    project: Project, subtests: pytest.Subtests
) -> None:
    project.add_venv()
    assert not project.environment.is_current(REQUIREMENTS)
    project.add_stamp()
    for path, changed in (
        (project.root / REQUIREMENTS, "first\n"),
        (project.root / REQUIREMENTS, None),
        (project.root / "version", "3.12\n"),
        (project.python, None),
    ):
        with subtests.test(path=path.name, changed=changed):
            assert project.environment.is_current(REQUIREMENTS)
            kept = path.rename(project.root / "kept")
            if changed is not None:
                path.write_text(changed)
            assert not project.environment.is_current(REQUIREMENTS)
            kept.rename(path)
    project.unfinished.touch()
    assert not project.environment.is_current(REQUIREMENTS), "an installation was killed"


def test_the_interpreter_that_runs_is_not_started_to_learn_its_version(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.add_venv()
    project.add_stamp()
    (project.root / "version").unlink()
    assert not project.environment.is_current(REQUIREMENTS)
    monkeypatch.setattr(sys, "executable", str(project.python))
    monkeypatch.setattr(sys, "version_info", (3, 11, 7))
    assert project.environment.is_current(REQUIREMENTS)


def test_a_current_environment_is_left_alone(project: Project) -> None:
    project.add_venv()
    project.add_stamp()
    project.environment.ensure(REQUIREMENTS)
    assert project.calls() == [] and not project.environment.log.parent.exists()


def test_what_another_process_has_just_installed_is_not_installed_again(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.add_venv()
    project.environment.log.parent.mkdir()
    descriptor = os.open(project.environment.log.parent / "setup.lock", os.O_RDWR | os.O_CREAT)
    file_lock.acquire(descriptor)
    thread = threading.Thread(target=project.environment.ensure, args=(REQUIREMENTS,), name="ensure")
    thread.start()
    printed = list[str]()

    def is_waiting() -> bool:
        printed.append(capsys.readouterr().out)
        return WAITING in "".join(printed)

    wait_until(is_waiting, 3)
    project.add_stamp()
    os.close(descriptor)
    thread.join(3)
    assert not thread.is_alive() and project.calls() == []


# -- installations -----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("whole_program")
def test_packages_are_installed_into_a_new_environment_with_progress(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[Path, list[str]]] = []
    project.environment.ensure(
        REQUIREMENTS, "-c", "limits.txt", while_installing=lambda python: seen.append((python, project.calls()))
    )
    assert project.calls() == ["venv", "pip install"]
    assert seen == [(project.python, ["venv"])], "other work begins before pip and after the environment exists"
    call = (project.root / "calls").read_text().splitlines()[1].split()
    assert call[call.index("-r") + 1 :][:3] == [str(project.root / REQUIREMENTS), "-c", "limits.txt"]
    printed = capsys.readouterr().out
    for expected in (
        "Creating the Python environment .venv ...",
        "正在创建 Python 环境",
        "Installing the packages of requirements.txt.",
        "Downloading package 1: first",
    ):
        assert expected in printed
    assert project.environment.is_current(REQUIREMENTS) and not project.unfinished.exists()
    assert project.environment.log.read_text() == OUTPUT
    project.environment.ensure(REQUIREMENTS)
    assert len(project.calls()) == 2


@pytest.mark.usefixtures("whole_program")
def test_a_failed_download_leaves_the_environment_usable(project: Project) -> None:
    project.add_venv()
    project.pip_prints("Collecting first\nERROR: Failed to establish a new connection: refused\n", 1)
    with pytest.raises(InstallFailed) as failed:
        project.environment.ensure(REQUIREMENTS)
    for language in ("en", "zh"):
        assert install_errors.NO_NETWORK[language] in failed.value.say(language)
        assert str(project.environment.log) in failed.value.say(language)
    assert not project.unfinished.exists() and not project.environment.is_current(REQUIREMENTS)
    project.pip_prints(OUTPUT)
    project.environment.ensure(REQUIREMENTS)
    assert project.calls() == ["pip install", "pip install"], "the environment is not made anew"


@pytest.mark.usefixtures("whole_program")
def test_an_environment_that_was_changed_in_part_is_made_anew(project: Project) -> None:
    project.add_venv()
    project.pip_prints(f"{OUTPUT}ERROR: Could not install packages: No space left on device\n", 1)
    with pytest.raises(InstallFailed, match="disk is full"):
        project.environment.ensure(REQUIREMENTS)
    assert project.unfinished.exists()
    project.pip_prints(OUTPUT)
    project.environment.ensure(REQUIREMENTS)
    assert project.calls() == ["pip install", "venv", "pip install"]
    assert project.environment.is_current(REQUIREMENTS)


@pytest.mark.usefixtures("whole_program")
def test_an_environment_of_an_unsupported_python_is_replaced(project: Project, subtests: pytest.Subtests) -> None:
    project.add_venv()
    for version, created in (("3.9\n", 1), ("", 2), ("3.11\n", 2)):
        with subtests.test(version=version):
            (project.root / "version").write_text(version)
            project.environment.ensure(REQUIREMENTS)
            assert project.calls().count("venv") == created
            (project.environment.folder / f"installed-{REQUIREMENTS}").unlink()


def test_why_no_environment_can_be_created_is_named_and_logged(project: Project) -> None:
    (project.root / "refusal").write_text("Traceback\nError: ensurepip is not available.\n\n")
    with pytest.raises(InstallFailed, match=r"\.venv.*Error: ensurepip is not available\. See .*setup\.log"):
        project.environment.ensure(REQUIREMENTS)
    assert "ensurepip is not available" in project.environment.log.read_text()
    assert project.calls() == ["venv"] and not project.environment.folder.exists()


def test_a_folder_that_cannot_be_written_is_named(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, **_: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    with monkeypatch.context() as patched, pytest.raises(InstallFailed, match=r"is not read-only.*\n.*logs'") as caught:
        patched.setattr(Path, "mkdir", refuse)
        project.environment.ensure(REQUIREMENTS)
    assert "只读" in caught.value.say("zh")
    (project.root / "logs").touch()
    with pytest.raises(InstallFailed, match=r"File exists: '.*logs'"):
        project.environment.ensure(REQUIREMENTS)
    assert project.calls() == []


def test_too_little_disk_space_is_an_error_before_anything_is_changed(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.setup.environment.shutil.disk_usage", lambda _: SimpleNamespace(free=499_000_000))
    with pytest.raises(InstallFailed, match="3000 MB of disk space are needed, but only 499 MB are free"):
        project.environment.ensure(REQUIREMENTS)
    (project.environment.folder / "lib/python3.11/site-packages/torch-2.6.0.dist-info").mkdir(parents=True)
    with pytest.raises(InstallFailed, match="500 MB"):
        project.environment.ensure(REQUIREMENTS)
    assert project.calls() == []


def test_the_cause_of_a_failure_is_found_in_the_output_of_pip(project: Project, subtests: pytest.Subtests) -> None:
    missing = "ERROR: No matching distribution found for first"
    for output, cause in (
        (f"(from versions: none)\n{missing}", f"{install_errors.NO_NETWORK['en']} "),
        (f"(from versions: 1.0, 2.0)\n{missing}", f"{install_errors.NO_VERSION['en']} "),
        ("one\nerror: externally managed\nhint: do that\n", "error: externally managed "),
        ("one\nthe last words\n \n", "the last words "),
        ("", ""),
        (f"ERROR: {'x' * 300}", f"ERROR: {'x' * 193} "),
    ):
        with subtests.test(cause=cause[:40]):
            words = project.environment._failed({"en": "packages", "zh": "packages"}, output).say("en")
            assert words == f"Could not install packages: {cause}See {project.environment.log} for details."
