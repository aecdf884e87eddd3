"""server.py as a process: output, errors, exit status."""

from __future__ import annotations

import http.client
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from modules.app import App
from modules.catalog.catalog import Catalog
from modules.core.errors import PresetNotFound
from modules.core.paths import ROOT
from modules.planning.load_request import LoadRequest
from modules.system.listener import listening_socket
from server import BriefFormatter, announce
from tests.support.gguf_files import gguf

pytestmark = pytest.mark.usefixtures("whole_program")


def run(
    *arguments: str, language: str = "C", cwd: Path = ROOT, project: Path = ROOT, stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run server.py of `project` until it exits, with `stdin` as its input."""
    command = [sys.executable, str(project / "server.py"), *arguments]
    environment = os.environ | {"LANG": language, "LC_ALL": language}
    return subprocess.run(command, cwd=cwd, env=environment, input=stdin, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize(
    ("arguments", "output"),
    [
        (["--loadr", "x"], "'--loader'"),
        (["--n_ctxx=5"], "'--n_ctx'"),
        (["--loader", "lama.cpp"], "'llama.cpp'"),
        (["--n_ctx=abc"], "n_ctx: 'abc' is not acceptable"),
        (["--n_ctx"], "--n_ctx needs a value."),
        (["--model", "--api"], "--model needs a value."),
        (["--gradio-auth", "nocolon"], "gradio_auth"),
        (["--settings", "nowhere.yaml"], "file not found"),
    ],
)
def test_an_invalid_command_line_prints_one_sentence_and_exits_with_2(arguments: list[str], output: str) -> None:
    result = run(*arguments)
    assert result.returncode == 2
    assert output in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_errors_are_in_the_terminals_language() -> None:
    assert "没有名为" in run("--loader", "lama.cpp", language="zh_CN.UTF-8").stderr
    assert run("--n_ctx", language="zh_CN.UTF-8").stderr == "命令行：--n_ctx 缺少取值。\n"
    assert run("--model", language="zh_CN.UTF-8").stderr == "命令行：--model 缺少取值。\n"


def test_errors_in_the_log_are_shown_in_the_terminals_language(monkeypatch: pytest.MonkeyPatch) -> None:
    record = logging.makeLogRecord({"msg": "%s: %s", "args": ("a.gguf", PresetNotFound("calm", ""))})
    for language, words in (("zh_CN.UTF-8", "没有名为“calm”的预设。"), ("en_US.UTF-8", "There is no preset 'calm'.")):
        monkeypatch.setenv("LC_ALL", language)
        assert BriefFormatter("%(message)s").format(record) == f"a.gguf: {words}"


def test_an_unknown_model_names_the_nearest(models_folder: Path) -> None:
    result = run("--model-dir", str(models_folder), "--model", "SmolLM2-135M-Instruct.Q4_0.gguf")
    assert result.returncode == 2
    assert "'SmolLM2-135M-Instruct.Q4_1.gguf'" in result.stderr


def test_a_port_in_use_prints_one_sentence(models_folder: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        result = run("--model-dir", str(models_folder), "--listen-port", str(listener.getsockname()[1]))
    assert result.returncode == 2
    assert "already in use" in result.stderr
    assert "Traceback" not in result.stderr


def test_explain_prints_values_sources_and_exact_calls(smollm2: Path, tmp_path: Path) -> None:
    result = run("--model", str(smollm2), "--explain", "--n-ctx=4096", "--no_mmap", "--threads", "1", cwd=tmp_path)
    output = json.loads(result.stdout)
    assert output["options"]["n_ctx"] == {"value": 4096, "source": "flag"}
    assert output["options"]["mlock"] == {"value": False, "source": "default"}
    assert output["calls"]["llama_model_load_from_file"]["load_mode"] == 0
    assert output["calls"]["llama_init_from_model"]["n_threads"] == 1
    assert result.stderr == ""


def parse_explanation(result: subprocess.CompletedProcess[str]) -> tuple[str, dict[str, object]]:
    """Return the explained model, and the options whose source is a flag."""
    assert result.returncode == 0, result.stderr
    output = json.loads(result.stdout)
    settings = output["options"].items()
    return output["model"], {key: setting["value"] for key, setting in settings if setting["source"] == "flag"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project whose CMD_FLAGS.txt the test may write."""
    folder = tmp_path / "项目"
    folder.mkdir()
    shutil.copy(ROOT / "server.py", folder)
    (folder / "modules").symlink_to(ROOT / "modules")
    return folder


def test_arguments_take_precedence_over_the_flags_file(project: Path, models_folder: Path, smollm2: Path) -> None:
    lines = ["# 模型", f"--model-dir '{models_folder}' --model {smollm2.name}", "--n_ctx 1024", "--threads 1"]
    (project / "CMD_FLAGS.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    output = parse_explanation(run("--explain", "--n-ctx=2048", project=project))
    assert output == (smollm2.name, {"n_ctx": 2048, "threads": 1})


@pytest.mark.parametrize(
    ("content", "en", "zh"),
    [
        (b"# flags\n\n--model 'my model\n", "3: no closing quotation mark.", "3：引号没有闭合。"),
        ("--api\n--model 模型\n".encode("gbk"), "2: not UTF-8.", "2：不是 UTF-8 编码。"),
    ],
)
def test_an_error_in_the_flags_file_is_printed_with_its_line(project: Path, content: bytes, en: str, zh: str) -> None:
    (project / "CMD_FLAGS.txt").write_bytes(content)
    for language, output in (("C.UTF-8", f"Command line: {{}}:{en}\n"), ("zh_CN.UTF-8", f"命令行：{{}}:{zh}\n")):
        result = run(project=project, language=language)
        assert (result.returncode, result.stderr) == (2, output.format(project / "CMD_FLAGS.txt"))
    assert len(result.stderr.splitlines()) == 1


def test_an_ignored_flag_prints_a_warning_and_the_server_starts(models_folder: Path) -> None:
    ignored = ("--no_cache", "--pre_layer", "10", "20")
    arguments = ("--model-dir", str(models_folder), "--explain", *ignored, "--n_ctx", "512")
    result = run(*arguments)
    assert parse_explanation(result)[1] == {"n_ctx": 512}
    assert result.stderr.splitlines() == [
        "--no_cache is no longer supported and was ignored.",
        "--pre_layer is no longer supported and was ignored. Use --gpu-memory.",
    ]
    assert "--no_cache 已不再支持" in run(*arguments, language="zh_CN.UTF-8").stderr


@pytest.fixture
def three_models(tmp_path: Path, smollm2: Path) -> Path:
    """A folder of models: a and c can be loaded, b is damaged."""
    folder = tmp_path / "three"
    folder.mkdir()
    for name in ("a.gguf", "c.gguf"):
        (folder / name).symlink_to(smollm2)
    (folder / "b.gguf").write_bytes(b"not a model")
    return folder


def test_the_menu_asks_until_the_number_is_valid(three_models: Path) -> None:
    options = ("--loader", "llamacpp", "--n_ctx", "512")
    result = run(
        "--model-dir", str(three_models), "--model-menu", "--explain", *options, stdin="\nc.gguf\n0\n-1\n3\n2\n"
    )
    assert parse_explanation(result) == ("c.gguf", {"n_ctx": 512})
    assert result.stderr.count("Please type a number from 1 to 2.") == 5


def test_the_menu_shows_a_damaged_model_but_does_not_offer_it(three_models: Path) -> None:
    lines = run("--model-dir", str(three_models), "--model-menu", "--explain", stdin="1\n").stderr.splitlines()
    assert lines[0] == "The following models are available:"
    assert (lines[1], lines[3]) == ("1. a.gguf", "2. c.gguf")
    assert lines[2].startswith("-  b.gguf (cannot be loaded: ")


def test_the_menu_is_in_the_terminals_language(three_models: Path) -> None:
    result = run("--model-dir", str(three_models), "--model-menu", "--explain", language="zh_CN.UTF-8", stdin="x\n1\n")
    assert parse_explanation(result)[0] == "a.gguf"
    assert "可用的模型：" in result.stderr
    assert "请输入 1 到 2 之间的数字。" in result.stderr


def test_the_menu_is_not_shown_if_the_model_is_named(three_models: Path) -> None:
    result = run("--model-dir", str(three_models), "--model-menu", "--model", "c.gguf", "--explain")
    assert parse_explanation(result)[0] == "c.gguf"
    assert result.stderr == ""


def test_a_menu_without_an_answer_exits_with_2(three_models: Path) -> None:
    result = run("--model-dir", str(three_models), "--model-menu", stdin="9\n")
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == "--model-menu: the input ended before a model was chosen."
    assert "Traceback" not in result.stderr


def test_a_menu_without_models_exits_with_2(tmp_path: Path) -> None:
    result = run("--model-dir", str(tmp_path), "--model-menu", stdin="1\n")
    assert result.returncode == 2
    assert result.stderr == f"--model-menu: no model in {tmp_path} can be loaded.\n"


def test_a_misspelled_loader_is_reported_before_the_menu(three_models: Path) -> None:
    result = run("--model-dir", str(three_models), "--model-menu", "--loader", "lama.cpp", stdin="1\n")
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1


def test_ctrl_c_at_the_menu_exits_with_130(three_models: Path) -> None:
    command = [sys.executable, "server.py", "--model-dir", str(three_models), "--model-menu"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | {"LC_ALL": "C"}, text=True, **pipes) as process:
        try:
            while process.stderr.readline() != "Which one do you want to load? 1-2\n":
                assert process.poll() is None
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 130
            assert process.stderr.read() == "Stopped.\n"
        finally:
            process.kill()


class RunningServer:
    """server.py in a process, listening on a free port."""

    def __init__(self, *arguments: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "server.py", "--listen-port", str(self.port), *arguments]
        environment = os.environ | {"LC_ALL": "C"}
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def get(self, path: str, **headers: str) -> tuple[int, str]:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read().decode()

    def redirection(self, path: str, **headers: str) -> str:
        """Return the path that a request for `path` is redirected to."""
        base = f"http://127.0.0.1:{self.port}"
        with urllib.request.urlopen(urllib.request.Request(base + path, headers=headers), timeout=10) as response:
            return str(response.geturl()).removeprefix(base)

    def wait_for(self, state: str) -> None:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                if json.loads(self.get("/healthz")[1])["model"] == state:
                    return
            except OSError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"the model did not become {state}")

    def stop(self) -> str:
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=20)
        return output


@pytest.fixture
def started(models_folder: Path, smollm2: Path) -> Iterator[RunningServer]:
    running = RunningServer("--model-dir", str(models_folder), "--model", smollm2.name, "--n_ctx", "512", "--api")
    yield running
    if running.process.poll() is None:
        running.process.kill()
        running.process.wait()


def test_the_server_prints_its_address_loads_the_model_and_stops_cleanly(started: RunningServer) -> None:
    started.wait_for("ready")
    status, page = started.get("/zh/")
    assert status == 200 and "gradio" in page
    assert '"context_length"' in started.get("/v1/models")[1] or "SmolLM2" in started.get("/v1/models")[1]
    workers = Path(f"/proc/{started.process.pid}/task/{started.process.pid}/children")
    assert workers.exists()
    output = started.stop()
    assert f"Ready: http://127.0.0.1:{started.port}" in output
    assert started.process.returncode == 0
    assert "Traceback" not in output


def test_the_root_redirects_to_the_requested_language_which_can_be_forgotten(started: RunningServer) -> None:
    started.wait_for("ready")
    assert started.redirection("/", **{"Accept-Language": "zh-HK,en;q=0.5"}) == "/zh/"
    assert started.redirection("/", **{"Accept-Language": "fr-FR,en;q=0.5"}) == "/en/"
    assert started.redirection("/", Cookie="tx-language=zh", **{"Accept-Language": "en"}) == "/zh/"
    connection = http.client.HTTPConnection("127.0.0.1", started.port, timeout=10)
    connection.request("GET", "/language/auto", headers={"Cookie": "tx-language=zh"})
    response = connection.getresponse()
    connection.close()
    assert response.getheader("Location") == "/"
    assert re.match(r'tx-language="";.* Max-Age=0;', response.getheader("Set-Cookie") or "")


def test_nowebui_serves_only_the_api(models_folder: Path) -> None:
    running = RunningServer("--model-dir", str(models_folder), "--nowebui")
    try:
        running.wait_for("empty")
        assert running.get("/v1/models")[0] == 200
        with pytest.raises(urllib.error.HTTPError, match="404"):
            running.get("/zh/")
    finally:
        assert "Traceback" not in running.stop()


def test_listening_without_a_login_prints_a_warning(models_folder: Path) -> None:
    running = RunningServer("--model-dir", str(models_folder), "--listen")
    running.wait_for("empty")
    assert "Warning: anyone on the network" in running.stop()


def test_models_are_scanned_when_the_server_starts(make_app: Callable[..., App], tmp_path: Path) -> None:
    (tmp_path / "models" / "tiny.gguf").write_bytes(gguf())
    cache = tmp_path / "cache" / "catalog.json"
    app = make_app()
    app.catalog = Catalog(app.catalog.folder, cache)
    app.loading.explain(app.planner.plan(LoadRequest(app.record("tiny.gguf"))))
    assert not cache.exists()
    with listening_socket("127.0.0.1", 0) as listener:
        announce(SimpleNamespace(started=True), app, listener)
    deadline = time.monotonic() + 30
    while not cache.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "tiny.gguf" in cache.read_text()
