"""The command download-model.py, run as a process against a local hub."""

from __future__ import annotations

import io
import os
import pickle
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from modules.cli import download, download_flags
from modules.cli.download import DownloadCommand
from modules.cli.download_progress import ProgressDisplay
from modules.core.paths import ROOT
from modules.downloads.manager import DownloadManager
from modules.downloads.record import DownloadSpec
from modules.downloads.view import JobView
from modules.hub.client import HubClient
from modules.hub.errors import DownloadError
from tests.support.checkpoint_files import put
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
PRESELECTED = ["README.md", "config.json", "model.safetensors", "tokenizer.json"]


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as started:
        started.add(REPO, FILES)
        yield started


class Program:
    """Runs the command with its own models folder; hosts other than this machine cannot be reached."""

    def __init__(self, hub: HubServer, folder: Path) -> None:
        self.hub, self.models, self.loras = hub, folder / "models", folder / "loras"
        self.environment = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        self.environment |= {"LC_ALL": "C.UTF-8", "HTTPS_PROXY": "http://127.0.0.1:9"}
        self.environment |= {"HF_ENDPOINT": hub.url, "PYTHONUNBUFFERED": "1"}

    def command(self, *arguments: str) -> list[str]:
        folders = ("--model-dir", str(self.models), "--lora-dir", str(self.loras))
        return [sys.executable, str(ROOT / "download-model.py"), *folders, *arguments]

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environment = self.environment | variables
        return subprocess.run(self.command(*arguments), env=environment, capture_output=True, text=True, timeout=60)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments), env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )


@pytest.fixture
def program(whole_program: None, hub: HubServer, tmp_path: Path) -> Program:
    return Program(hub, tmp_path)


def files(folder: Path) -> dict[str, bytes]:
    """Return the files in `folder` except the metadata note and hidden files."""
    paths = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    visible = {name for name in paths if not name.startswith(".") and name != "huggingface-metadata.txt"}
    return {name: paths[name].read_bytes() for name in sorted(visible)}


def expected(*names: str, repository: Mapping[str, Content] = FILES) -> dict[str, Content]:
    return {name: repository[name] for name in sorted(names)}


def test_a_downloaded_model_is_identical_to_the_original(program: Program) -> None:
    result = program.run(REPO)
    assert (result.returncode, result.stderr) == (0, "")
    folder = program.models / "user_model"
    assert files(folder) == expected(*PRESELECTED)
    assert f"Saved to {folder}: 4 files, 8.0 MB, all verified" in result.stdout.splitlines()[-1]
    assert "commit: " in (folder / "huggingface-metadata.txt").read_text()
    assert not list((program.models / ".downloads").glob("*/*")), "temporary files are deleted"
    sent = program.hub.sent
    assert program.run(REPO).returncode == 0
    assert program.hub.sent - sent < 10_000, "existing files are not downloaded again"


def test_messages_are_in_the_terminals_language(program: Program) -> None:
    result = program.run(REPO, LC_ALL="zh_CN.UTF-8")
    assert "全部校验通过" in result.stdout
    assert "无法识别" in program.run("nonsense", LC_ALL="zh_CN.UTF-8").stderr


@pytest.mark.parametrize("address", ["{url}/user/model", "{url}/user/model/tree/small", "user/model:small"])
def test_a_branch_is_taken_from_the_address(program: Program, address: str) -> None:
    program.hub.add(REPO, {"config.json": b"{}", "model.safetensors": b"small"}, "small")
    assert program.run(address.format(url=program.hub.url)).returncode == 0
    branch = "" if address.endswith("model") else "_small"
    assert (program.models / f"user_model{branch}" / "model.safetensors").read_bytes() == (
        b"small" if branch else WEIGHTS
    )


def test_a_branch_is_taken_from_its_flag(program: Program) -> None:
    program.hub.add(REPO, {"config.json": b"{}", "model.safetensors": b"small"}, "small")
    assert program.run(REPO, "--branch", "small").returncode == 0
    assert (program.models / "user_model_small" / "model.safetensors").read_bytes() == b"small"
    result = program.run(REPO, "--branch", "large")
    assert result.returncode == 1 and "Available: " in result.stderr and "small" in result.stderr
    assert program.run(REPO, "--branch", "../up").returncode == 2


def test_an_endpoint_is_taken_from_its_flag(program: Program) -> None:
    assert program.run(REPO, "--hf-endpoint", program.hub.url, HF_ENDPOINT="").returncode == 0
    assert files(program.models / "user_model") == expected(*PRESELECTED)


def test_text_only_downloads_no_weights(program: Program) -> None:
    assert program.run("--text-only", REPO).returncode == 0
    assert files(program.models / "user_model") == expected("README.md", "config.json", "tokenizer.json")


def test_specific_file_downloads_only_that_file(program: Program) -> None:
    assert program.run(REPO, "--specific-file", "tokenizer.json").returncode == 0
    assert files(program.models / "user_model") == expected("tokenizer.json")
    result = program.run(REPO, "--specific-file", "tokenizer.jsn")
    assert result.returncode == 1 and "Similar names: tokenizer.json" in result.stderr


def test_exclude_pattern_leaves_files_out(program: Program) -> None:
    assert program.run(REPO, "--exclude-pattern", r".*\.(md|safetensors)$").returncode == 0
    assert files(program.models / "user_model") == expected("config.json", "tokenizer.json")
    assert program.run(REPO, "--exclude-pattern", "(").returncode == 2
    result = program.run(REPO, "--exclude-pattern", ".*")
    assert result.returncode == 1 and "Nothing to download" in result.stderr


def test_output_selects_the_folder(program: Program, tmp_path: Path) -> None:
    result = program.run(REPO, "--output", str(tmp_path / "output"))
    assert result.returncode == 0 and not program.models.exists()
    assert files(tmp_path / "output") == expected(*PRESELECTED)


def test_the_folder_has_nothing_but_the_files_unless_the_download_was_interrupted(
    hub: HubServer, tmp_path: Path
) -> None:
    assert command(hub, tmp_path, "--output", str(tmp_path / "one")).download() == 0
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == PRESELECTED
    hub.fault("model.safetensors", origin="hub", status=404)
    with pytest.raises(DownloadError):
        command(hub, tmp_path, "--output", str(tmp_path / "two")).download()
    assert [path.name for path in (tmp_path / "two").iterdir()] == [".downloads"]


def test_a_lora_goes_to_the_lora_folder(program: Program) -> None:
    lora: dict[str, Content] = {"adapter_config.json": b"{}", "adapter_model.safetensors": b"lora"}
    program.hub.add("user/lora", lora)
    assert program.run("user/lora").returncode == 0
    assert files(program.loras / "user_lora") == lora


def test_the_recommended_gguf_file_is_downloaded_or_a_file_has_to_be_named(program: Program) -> None:
    ggufs: dict[str, Content] = {
        f"m.{quantization}.gguf": quantization.encode() for quantization in ("Q2_K", "Q4_K_M", "Q8_0")
    }
    program.hub.add("user/gguf", ggufs)
    assert program.run("user/gguf").returncode == 0
    assert files(program.models) == expected("m.Q4_K_M.gguf", repository=ggufs)
    program.hub.add("user/gguf", {name: content for name, content in ggufs.items() if "Q4" not in name})
    result = program.run("user/gguf")
    assert result.returncode == 2 and "m.Q2_K.gguf" in result.stderr and "m.Q8_0.gguf" in result.stderr
    assert program.run("user/gguf", "--specific-file", "m.Q8_0.gguf").returncode == 0
    assert files(program.models) == expected("m.Q4_K_M.gguf", "m.Q8_0.gguf", repository=ggufs)


def test_pickles_are_downloaded_only_with_a_flag(program: Program) -> None:
    pickled: dict[str, Content] = {"config.json": b"{}", "pytorch_model.bin": pickle.dumps({})}
    program.hub.add("user/old", pickled)
    result = program.run("user/old")
    assert result.returncode == 1 and "--allow-pickles" in result.stderr and not program.models.exists()
    assert program.run("user/old", "--allow-pickles").returncode == 0
    assert files(program.models / "user_old") == pickled


# -- interrupting and resuming -----------------------------------------------------------------------------------------


def interrupt(program: Program) -> int:
    """Stop the command by Ctrl-C half-way, and return the bytes sent so far."""
    slow = program.hub.fault("model.safetensors", origin="cdn", rate=3_000_000)
    running = program.begin(REPO)
    until(lambda: program.hub.sent > len(WEIGHTS) // 2)
    running.send_signal(signal.SIGINT)
    _, stderr = running.communicate(timeout=20)
    assert running.returncode == 130 and "Stopped" in stderr and "Traceback" not in stderr
    assert not (program.models / "user_model").exists(), "an incomplete model is not visible"
    program.hub.faults.remove(slow)
    return program.hub.sent


def test_after_ctrl_c_the_same_command_resumes(program: Program) -> None:
    sent = interrupt(program)
    assert sent < len(WEIGHTS)
    assert program.run(REPO).returncode == 0
    assert files(program.models / "user_model") == expected(*PRESELECTED)
    assert program.hub.sent < len(WEIGHTS) + 2_000_000, "hardly anything is downloaded twice"


def test_clean_restarts_an_interrupted_download(program: Program) -> None:
    sent = interrupt(program)
    assert program.run(REPO, "--clean").returncode == 0
    assert files(program.models / "user_model") == expected(*PRESELECTED)
    assert program.hub.sent - sent > len(WEIGHTS)


# -- failures ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["--nonsense", REPO], [REPO, "--threads", "0"], [REPO, "--hf-endpoint", "ftp://x"]]
)
def test_invalid_arguments_exit_with_2_and_one_line(program: Program, arguments: list[str]) -> None:
    result = program.run(*arguments)
    assert result.returncode == 2 and result.stdout == "" and len(result.stderr.splitlines()) == 1


def test_a_missing_repository_exits_with_1(program: Program) -> None:
    result = program.run("no/body")
    assert result.returncode == 1 and "no/body was not found" in result.stderr and not program.models.exists()


def test_a_wrong_checksum_exits_with_1(program: Program) -> None:
    program.hub.fault("model.safetensors", origin="cdn", corrupt=1000)
    result = program.run(REPO, "--max-retries", "0")
    assert result.returncode == 1 and "model.safetensors failed verification twice" in result.stderr
    assert not (program.models / "user_model").exists()


def test_max_retries_limits_the_attempts(program: Program) -> None:
    program.hub.fault("model.safetensors", origin="hub", status=503)
    result = program.run(REPO, "--max-retries", "1")
    assert result.returncode == 1 and "Traceback" not in result.stderr and len(result.stderr.splitlines()) == 1
    assert len(program.hub.requests("resolve.*model.safetensors")) == 2


def test_the_list_of_files_is_asked_for_as_often_as_their_contents(program: Program) -> None:
    program.hub.fault("/tree/", status=503, times=1)
    result = program.run(REPO, "--text-only", "--max-retries", "1")
    assert result.returncode == 0 and "(1 of 1): Server error on" in result.stdout
    program.hub.fault("/tree/", status=503)
    asked = len(program.hub.requests("/tree/"))
    result = program.run(REPO, "--max-retries", "1")
    assert result.returncode == 1 and len(result.stderr.splitlines()) == 1
    assert len(program.hub.requests("/tree/")) - asked == 2


def test_the_output_says_why_nothing_arrives(program: Program) -> None:
    program.hub.fault("model.safetensors", origin="hub", status=503, times=1)
    program.hub.fault("model.safetensors", origin="hub", status=429, headers={"Retry-After": "1"}, times=1)
    lines = program.run(REPO, "--max-retries", "2").stdout.splitlines()
    host = program.hub.url.removeprefix("http://")
    assert any(re.fullmatch(rf"retrying in [012] s \(1 of 2\): Server error on {host} .*", line) for line in lines)
    assert any(re.fullmatch(rf"{host} limits the request rate; retrying in [01] s", line) for line in lines)


# -- checking ----------------------------------------------------------------------------------------------------------


def test_check_verifies_the_files_that_would_be_downloaded(program: Program) -> None:
    program.run(REPO)
    folder, sent = program.models / "user_model", program.hub.sent
    result = program.run("--check", REPO)
    assert result.returncode == 0 and "All 4 files are present and correct." in result.stdout
    assert "pytorch_model.bin" not in result.stdout, "a file that would not be downloaded is not missing"
    assert program.hub.sent - sent < 10_000
    damaged = bytearray(WEIGHTS)
    damaged[4_000_000] ^= 1
    (folder / "model.safetensors").write_bytes(damaged)
    (folder / "README.md").unlink()
    result = program.run("--check", REPO)
    assert result.returncode == 1 and "2 of 4 files are missing or damaged." in result.stdout
    assert "damaged  user_model/model.safetensors" in result.stdout and "missing  user_model/README.md" in result.stdout
    assert (folder / "model.safetensors").read_bytes() == damaged, "--check changes nothing"
    assert program.run(REPO).returncode == 0
    assert program.run("--check", REPO).returncode == 0


# -- terminal and access token -----------------------------------------------------------------------------------------


def test_a_terminal_shows_a_progress_bar_in_one_line(program: Program) -> None:
    program.hub.fault("model.safetensors", origin="cdn", rate=8_000_000)
    master, slave = pty.openpty()
    running = subprocess.Popen(program.command(REPO), env=program.environment | {"COLUMNS": "100"}, stdout=slave)
    os.close(slave)
    output = b""
    try:
        while data := os.read(master, 4096):
            output += data
    except OSError:  # on Linux, reading a pty fails once its other end is closed
        pass
    os.close(master)
    assert running.wait(20) == 0
    rows = output.decode().replace("\r\n", "\n").split("\n")
    frames = rows[0].split("\r")
    assert len(frames) > 3 and any("[#" in frame and "/s" in frame and "model.safetensors" in frame for frame in frames)
    assert all(len(frame.replace("\x1b[K", "")) < 100 for frame in frames)
    assert rows[1].startswith("Saved to ")


def test_the_token_of_the_environment_is_not_sent_to_a_mirror(program: Program) -> None:
    assert program.run(REPO, HF_TOKEN="hf_secret").returncode == 0
    assert {request.authorization for request in program.hub.log} == {""}


# -- in this process ---------------------------------------------------------------------------------------------------


def command(hub: HubServer, folder: Path, *flags: str) -> DownloadCommand:
    arguments = [REPO, "--model-dir", str(folder), "--hf-endpoint", hub.url, *flags]
    return DownloadCommand(download_flags.parse(arguments), {}, "en")


def test_a_branch_that_has_moved_since_the_interruption_is_downloaded_anew(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_POLL_SECONDS", 0.01)
    stall = hub.fault("model.safetensors", origin="cdn", stall_after=1_000_000)
    interrupted = command(hub, tmp_path)
    _, spec = interrupted._select()
    downloads = interrupted._downloads
    job = downloads.start(spec)
    until(lambda: downloads.snapshot()[0].done > 500_000)
    downloads.pause(job)
    downloads.close()
    hub.faults.remove(stall)
    changed = FILES | {"config.json": b'{"model_type": "qwen2"}'}
    hub.add(REPO, changed)
    assert command(hub, tmp_path).download() == 0
    assert files(tmp_path / "user_model") == expected(*PRESELECTED, repository=changed)
    assert "main now points to another commit; starting over." in capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("action", ["pause", "cancel", ""])
def test_the_command_ends_with_a_download_that_another_process_stops_and_takes_over_one_that_is_left(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr(download, "_POLL_SECONDS", 0.01)
    hub.fault("model.safetensors", origin="cdn", stall_after=1_000_000)
    attached = command(hub, tmp_path)
    _, spec = attached._select()
    other = DownloadManager({"model": tmp_path, "lora": tmp_path}, lambda: [HubClient(hub.url)])
    job = other.start(spec)
    until(lambda: other.snapshot()[0].done > 500_000)

    def shown(_: ProgressDisplay, view: JobView) -> None:
        if view.elsewhere:
            hub.faults.clear()
            if action:
                getattr(other, action)(job)
            other.close()

    monkeypatch.setattr(ProgressDisplay, "show", shown)
    assert attached.download() == (1 if action else 0)
    said = {"pause": "Another process has paused it.", "cancel": "Another process has cancelled it.", "": ""}[action]
    assert said in capsys.readouterr().err
    assert (tmp_path / "user_model").exists() == (not action)


def test_files_of_another_size_and_folders_in_their_place_are_damaged(
    hub: HubServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in PRESELECTED:
        put(tmp_path / "user_model" / name, FILES[name])
    folder = tmp_path / "user_model"
    assert command(hub, tmp_path, "--check").verify() == 0
    (folder / "README.md").write_bytes(b"# Mode")
    (folder / "config.json").write_bytes(b'{"model_type": "llamA"}')
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").mkdir()
    (folder / "model.safetensors").unlink()
    capsys.readouterr()
    assert command(hub, tmp_path, "--check").verify() == 1
    lines = {line.split()[-1]: line.split()[0] for line in capsys.readouterr().out.splitlines()[:-1]}
    assert {Path(name).name: state for name, state in lines.items()} == {
        "README.md": "damaged",
        "config.json": "damaged",
        "tokenizer.json": "damaged",
        "model.safetensors": "missing",
    }


def test_a_long_line_of_progress_is_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Chinese character takes two columns."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "61")
    words = {"downloading": "正在下载", "file": "文件 {index}/{count}"}
    spec = DownloadSpec(REPO, "main", "x")
    view = JobView("1", spec, "downloading", Path(), count=9, index=1, file="模型" * 20, done=500, total=1000)
    output = Terminal()
    display = ProgressDisplay(output, words, "zh")
    display.show(view)
    shown = "[##########..........] 正在下载 · 50% 500 B/1.0 kB · 文件 1/"
    assert output.getvalue() == f"\r{shown}\x1b[K"
    display.print("a sentence")
    assert output.getvalue().endswith("\x1b[K\na sentence\n")
