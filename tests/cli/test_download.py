"""The command download-model.py in a process of its own, with a hub on this machine."""

from __future__ import annotations

import os
import pickle
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from modules.core.paths import ROOT
from tests.support.downloading import noise, until
from tests.support.hub_server import Content, HubServer

REPO = "user/model"
WEIGHTS = noise(8_000_000)
FILES: dict[str, Content] = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": noise(20_000, 1),
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": pickle.dumps({}),
    "README.md": b"# Model",
    "modeling.py": b"pass",
}
TAKEN = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as started:
        started.add(REPO, FILES)
        yield started


class Program:
    """Runs the command with its own models folder; hosts other than this machine cannot be reached."""

    def __init__(self, hub: HubServer, folder: Path) -> None:
        self.hub, self.models, self.loras = hub, folder / "models", folder / "loras"
        self.environment = {key: each for key, each in os.environ.items() if not key.lower().endswith("_proxy")}
        self.environment |= {"LC_ALL": "C.UTF-8", "HTTPS_PROXY": "http://127.0.0.1:9"}
        self.environment |= {"HF_ENDPOINT": hub.url, "PYTHONUNBUFFERED": "1"}

    def command(self, *words: str) -> list[str]:
        own = ("--model-dir", str(self.models), "--lora-dir", str(self.loras))
        return [sys.executable, str(ROOT / "download-model.py"), *own, *words]

    def run(self, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment | more
        return subprocess.run(self.command(*words), env=environment, capture_output=True, text=True, timeout=60)

    def begin(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*words), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture
def program(whole_program: None, hub: HubServer, tmp_path: Path) -> Program:
    return Program(hub, tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    """Return the files in `folder` except the metadata note and hidden files."""
    found = {each.relative_to(folder).as_posix(): each for each in folder.rglob("*") if each.is_file()}
    shown = {path for path in found if not path.startswith(".") and path != "huggingface-metadata.txt"}
    return {path: found[path].read_bytes() for path in sorted(shown)}


def expected(*names: str, of: Mapping[str, Content] = FILES) -> dict[str, Content]:
    return {name: of[name] for name in sorted(names)}


def test_a_model_arrives_byte_for_byte(program: Program) -> None:
    told = program.run(REPO)
    assert (told.returncode, told.stderr) == (0, "")
    folder = program.models / "user_model"
    assert files(folder) == expected(*TAKEN)
    assert f"Saved to {folder}: 4 files, 8.0 MB, all verified" in told.stdout.splitlines()[-1]
    assert "commit: " in (folder / "huggingface-metadata.txt").read_text()
    assert not list((program.models / ".downloads").glob("*/*")), "nothing is left over"
    again = program.hub.sent
    assert program.run(REPO).returncode == 0
    assert program.hub.sent - again < 10_000, "what is there is not sent again"


def test_messages_are_in_the_terminals_language(program: Program) -> None:
    told = program.run(REPO, LC_ALL="zh_CN.UTF-8")
    assert "全部校验通过" in told.stdout
    assert "无法识别" in program.run("nonsense", LC_ALL="zh_CN.UTF-8").stderr


@pytest.mark.parametrize("way", ["{url}/user/model", "{url}/user/model/tree/small", "user/model:small"])
def test_a_branch_is_taken_from_the_address(program: Program, way: str) -> None:
    program.hub.add(REPO, {"config.json": b"{}", "model.safetensors": b"small"}, "small")
    assert program.run(way.format(url=program.hub.url)).returncode == 0
    branch = "" if way.endswith("model") else "_small"
    assert (program.models / f"user_model{branch}" / "model.safetensors").read_bytes() == (
        b"small" if branch else WEIGHTS
    )


def test_a_branch_is_taken_from_its_flag(program: Program) -> None:
    program.hub.add(REPO, {"config.json": b"{}", "model.safetensors": b"small"}, "small")
    assert program.run(REPO, "--branch", "small").returncode == 0
    assert (program.models / "user_model_small" / "model.safetensors").read_bytes() == b"small"
    told = program.run(REPO, "--branch", "large")
    assert told.returncode == 1 and "Available: " in told.stderr and "small" in told.stderr
    assert program.run(REPO, "--branch", "../up").returncode == 2


def test_an_endpoint_is_taken_from_its_flag(program: Program) -> None:
    assert program.run(REPO, "--hf-endpoint", program.hub.url, HF_ENDPOINT="").returncode == 0
    assert files(program.models / "user_model") == expected(*TAKEN)


def test_text_only(program: Program) -> None:
    assert program.run("--text-only", REPO).returncode == 0
    assert files(program.models / "user_model") == expected("README.md", "config.json", "tokenizer.json")


def test_a_specific_file(program: Program) -> None:
    assert program.run(REPO, "--specific-file", "tokenizer.json").returncode == 0
    assert files(program.models / "user_model") == expected("tokenizer.json")
    told = program.run(REPO, "--specific-file", "tokenizer.jsn")
    assert told.returncode == 1 and "Similar names: tokenizer.json" in told.stderr


def test_an_exclude_pattern(program: Program) -> None:
    assert program.run(REPO, "--exclude-pattern", r".*\.(md|safetensors)$").returncode == 0
    assert files(program.models / "user_model") == expected("config.json", "tokenizer.json")
    assert program.run(REPO, "--exclude-pattern", "(").returncode == 2
    told = program.run(REPO, "--exclude-pattern", ".*")
    assert told.returncode == 1 and "Nothing to download" in told.stderr


def test_an_output_folder(program: Program, tmp_path: Path) -> None:
    told = program.run(REPO, "--output", str(tmp_path / "here"))
    assert told.returncode == 0 and not program.models.exists()
    assert files(tmp_path / "here") == expected(*TAKEN)


def test_a_lora_goes_to_the_lora_folder(program: Program) -> None:
    lora: dict[str, Content] = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"lora"}
    program.hub.add("user/lora", lora)
    assert program.run("user/lora").returncode == 0
    assert files(program.loras / "user_lora") == lora


def test_the_recommended_gguf_file_is_taken_or_one_has_to_be_named(program: Program) -> None:
    ggufs: dict[str, Content] = {f"m.{each}.gguf": each.encode() for each in ("Q2_K", "Q4_K_M", "Q8_0")}
    program.hub.add("user/gguf", ggufs)
    assert program.run("user/gguf").returncode == 0
    assert files(program.models) == expected("m.Q4_K_M.gguf", of=ggufs)
    program.hub.add("user/gguf", {name: each for name, each in ggufs.items() if "Q4" not in name})
    told = program.run("user/gguf")
    assert told.returncode == 2 and "m.Q2_K.gguf" in told.stderr and "m.Q8_0.gguf" in told.stderr
    assert program.run("user/gguf", "--specific-file", "m.Q8_0.gguf").returncode == 0
    assert files(program.models) == expected("m.Q4_K_M.gguf", "m.Q8_0.gguf", of=ggufs)


def test_pickles_need_a_flag(program: Program) -> None:
    pickled: dict[str, Content] = {"config.json": b"{}", "pytorch_model.bin": pickle.dumps({})}
    program.hub.add("user/old", pickled)
    told = program.run("user/old")
    assert told.returncode == 1 and "--allow-pickles" in told.stderr and not program.models.exists()
    assert program.run("user/old", "--allow-pickles").returncode == 0
    assert files(program.models / "user_old") == pickled


# -- stopped and taken up ----------------------------------------------------------------------------------------------


def interrupted(program: Program) -> int:
    """Stop the command by Ctrl-C half-way, and return the bytes sent so far."""
    slow = program.hub.fault("model.safetensors", origin="cdn", rate=3_000_000)
    running = program.begin(REPO)
    until(lambda: program.hub.sent > len(WEIGHTS) // 2)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=20)
    assert running.returncode == 130 and "Stopped" in told and "Traceback" not in told
    assert not (program.models / "user_model").exists(), "no model before all of it is there"
    program.hub.faults.remove(slow)
    return program.hub.sent


def test_after_ctrl_c_the_same_command_resumes(program: Program) -> None:
    before = interrupted(program)
    assert before < len(WEIGHTS)
    assert program.run(REPO).returncode == 0
    assert files(program.models / "user_model") == expected(*TAKEN)
    assert program.hub.sent < len(WEIGHTS) + 2_000_000, "hardly anything is sent twice"


def test_clean_starts_over(program: Program) -> None:
    before = interrupted(program)
    assert program.run(REPO, "--clean").returncode == 0
    assert files(program.models / "user_model") == expected(*TAKEN)
    assert program.hub.sent - before > len(WEIGHTS)


# -- what fails --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["--nonsense", REPO], [REPO, "--threads", "0"], [REPO, "--hf-endpoint", "ftp://x"]]
)
def test_invalid_arguments_exit_with_2_and_one_line(program: Program, words: list[str]) -> None:
    told = program.run(*words)
    assert told.returncode == 2 and told.stdout == "" and len(told.stderr.splitlines()) == 1


def test_a_missing_repository_exits_with_1(program: Program) -> None:
    told = program.run("no/body")
    assert told.returncode == 1 and "no/body was not found" in told.stderr and not program.models.exists()


def test_a_wrong_checksum_exits_with_1(program: Program) -> None:
    program.hub.fault("model.safetensors", origin="cdn", corrupt=1000)
    told = program.run(REPO, "--max-retries", "0")
    assert told.returncode == 1 and "model.safetensors failed verification twice" in told.stderr
    assert not (program.models / "user_model").exists()


def test_max_retries_limits_the_attempts(program: Program) -> None:
    program.hub.fault("model.safetensors", origin="hub", status=503)
    told = program.run(REPO, "--max-retries", "1")
    assert told.returncode == 1 and "Traceback" not in told.stderr and len(told.stderr.splitlines()) == 1
    assert len(program.hub.requests("resolve.*model.safetensors")) == 2


# -- checking ----------------------------------------------------------------------------------------------------------


def test_check_verifies_the_files_that_would_be_downloaded(program: Program) -> None:
    program.run(REPO)
    folder, sent = program.models / "user_model", program.hub.sent
    told = program.run("--check", REPO)
    assert told.returncode == 0 and "All 4 files are present and correct." in told.stdout
    assert "pytorch_model.bin" not in told.stdout, "a file that is not downloaded is not missing"
    assert program.hub.sent - sent < 10_000
    damaged = bytearray(WEIGHTS)
    damaged[4_000_000] ^= 1
    (folder / "model.safetensors").write_bytes(damaged)
    (folder / "README.md").unlink()
    told = program.run("--check", REPO)
    assert told.returncode == 1 and "2 of 4 files are missing or damaged." in told.stdout
    assert "damaged  user_model/model.safetensors" in told.stdout and "missing  user_model/README.md" in told.stdout
    assert (folder / "model.safetensors").read_bytes() == damaged, "nothing is changed"
    assert program.run(REPO).returncode == 0
    assert program.run("--check", REPO).returncode == 0


# -- a terminal, a token -----------------------------------------------------------------------------------------------


def test_a_terminal_shows_a_progress_bar_in_one_line(program: Program) -> None:
    program.hub.fault("model.safetensors", origin="cdn", rate=8_000_000)
    master, end = pty.openpty()
    running = subprocess.Popen(program.command(REPO), env=program.environment | {"COLUMNS": "100"}, stdout=end)
    os.close(end)
    shown = b""
    try:
        while piece := os.read(master, 4096):
            shown += piece
    except OSError:  # how a pty says that nobody holds its other end
        pass
    os.close(master)
    assert running.wait(20) == 0
    rows = shown.decode().replace("\r\n", "\n").split("\n")
    frames = rows[0].split("\r")
    assert len(frames) > 3 and any("[#" in each and "/s" in each and "model.safetensors" in each for each in frames)
    assert all(len(each.replace("\x1b[K", "")) < 100 for each in frames)
    assert rows[1].startswith("Saved to ")


def test_the_token_of_the_environment_is_not_sent_to_a_mirror(program: Program) -> None:
    assert program.run(REPO, HF_TOKEN="hf_secret").returncode == 0
    assert {each.authorization for each in program.hub.log} == {""}
