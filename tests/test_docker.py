"""The files in docker/ fit the checkout and the program. No image is built: that needs Docker and a network."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from starlette.testclient import TestClient

from modules.app import App
from modules.config import flags as command_line
from modules.core.paths import ROOT
from server import build

DOCKERFILES = ("Dockerfile", "Dockerfile.cuda")
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
SERVICE = COMPOSE["services"]["text-studio"]
IGNORED = [
    line
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]


def instructions(name: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile with their arguments."""
    text = (ROOT / "docker" / name).read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines.splitlines() if line)]


def arguments_of(name: str, wanted: str) -> list[str]:
    return [rest for word, rest in instructions(name) if word == wanted]


def is_in_context(path: str) -> bool:
    """Whether Docker sends a path to the build: the last rule that matches it, or a folder above it, decides."""
    kept = True
    parents = ["/".join(path.split("/")[:length]) for length in range(1, path.count("/") + 2)]
    for rule in IGNORED:
        pattern = rule.lstrip("!").removeprefix("**/")
        shown = [part.rpartition("/")[2] if "**/" in rule else part for part in parents]
        if any(fnmatch.fnmatchcase(part, pattern) for part in shown):
            kept = rule.startswith("!")
    return kept


@pytest.fixture(params=DOCKERFILES)
def dockerfile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_files_that_are_copied_exist_and_are_sent_to_the_build(dockerfile: str) -> None:
    copies = [rest for rest in arguments_of(dockerfile, "COPY") if "--from=" not in rest]
    assert copies
    for rest in copies:
        *sources, _ = [word for word in rest.split() if not word.startswith("--")]
        for source in sources:
            found = [path.relative_to(ROOT).as_posix() for path in ROOT.glob(source)]
            assert found and all(map(is_in_context, found)), source


def test_the_build_gets_neither_data_of_the_user_nor_secrets() -> None:
    for path in (
        ".venv/bin/python",
        "models/a.gguf",
        "logs/a.log",
        ".git/config",
        "overlays/llamacpp/a",
        "users/me.yaml",
        "training/datasets/mine.json",
        "training/runs/one/log.jsonl",
    ):
        assert not is_in_context(path), path
    assert not is_in_context("presets/.bin/a.yaml")
    assert is_in_context("modules/ui/static/chat.js") and is_in_context("training/datasets/README.md")


def test_flags_are_flags_of_the_server(dockerfile: str) -> None:
    entry, usual = (json.loads(arguments_of(dockerfile, word)[-1]) for word in ("ENTRYPOINT", "CMD"))
    for more in (usual, SERVICE["command"]):
        flags = command_line.parse([*entry[2:], *more])
        assert not flags.warnings
        assert flags.on("listen") and flags.on("api")


def test_the_program_is_prepared_and_checked_by_commands_that_exist(dockerfile: str) -> None:
    installs = [rest for rest in arguments_of(dockerfile, "RUN") if "server.py" in rest]
    (install,) = (shlex.split(part) for part in installs[0].split("&&") if "server.py" in part)
    assert command_line.parse(install[install.index("server.py") + 1 :]).text("install") == "llama.cpp"
    (check,) = arguments_of(dockerfile, "HEALTHCHECK")
    path = re.search(r"http://127\.0\.0\.1:7860(/\w+)", check)
    server = TestClient(build(App(command_line.parse(["--nowebui"]))))
    assert path and server.get(path[1]).status_code == 200


def test_the_container_runs_as_a_user_who_owns_all_that_the_program_writes(dockerfile: str) -> None:
    words = [word for word, _ in instructions(dockerfile)]
    assert words.index("USER") < words.index("ENTRYPOINT")
    assert arguments_of(dockerfile, "USER") == ["studio"]
    owned = {rest.split()[-1].split("/")[0] for rest in arguments_of(dockerfile, "COPY") if "--chown=studio" in rest}
    (chown,) = (part for rest in arguments_of(dockerfile, "RUN") for part in rest.split("&&") if "chown" in part)
    owned |= set(chown.split()[2:])
    mounted = {volume.split(":")[1].removeprefix("/app/") for volume in SERVICE["volumes"]}
    assert mounted <= owned
    assert "training" in owned, "runs are written there"
    assert set(json.loads(arguments_of(dockerfile, "VOLUME")[0])) <= {f"/app/{name}" for name in mounted}


def test_the_composition_builds_the_image_and_opens_its_port_to_this_machine_alone() -> None:
    assert (ROOT / "docker" / SERVICE["build"]["context"]).resolve() == ROOT
    assert (ROOT / SERVICE["build"]["dockerfile"]).is_file()
    exposed = arguments_of("Dockerfile", "EXPOSE")[0]
    assert SERVICE["ports"] == [f"127.0.0.1:{exposed}:{exposed}"]
    named = {volume.split(":")[0] for volume in SERVICE["volumes"]} - {"../models", "../loras"}
    assert named == set(COMPOSE["volumes"])


def test_both_images_have_the_same_program() -> None:
    def last_stage(name: str) -> list[tuple[str, str]]:
        found = instructions(name)
        start = max(index for index, (word, _) in enumerate(found) if word == "FROM")
        return [one for one in found[start + 1 :] if one[0] != "RUN"]

    assert last_stage("Dockerfile") == last_stage("Dockerfile.cuda")


def test_the_first_stage_has_what_its_command_needs(dockerfile: str, tmp_path: Path, whole_program: None) -> None:
    found = instructions(dockerfile)
    end = [index for index, (word, _) in enumerate(found) if word == "FROM"][1]
    copied = [rest.split()[:-1] for word, rest in found[:end] if word == "COPY"]
    for name in (name for names in copied for name in names):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name)
        else:
            shutil.copy(source, tmp_path)
    command = [sys.executable, "server.py", "--install", "no such loader"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and "no such loader" in result.stderr, result.stderr
