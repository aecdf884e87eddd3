"""The plan of benchmarks/gpu.py and the runner of its stages, with small commands instead of models."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from modules.core.paths import ROOT
from tests.support.echo_plans import wait_until

sys.path.append(str(ROOT / "benchmarks"))
import gpu
import gpu_stages
import gpu_toolkit
from gpu_models import SIZES
from gpu_stages import Runner, Stage

CARD, NONE = gpu.Machine("9.0", True, 16), gpu.Machine("", False, 2)


def python(name: str, script: str, seconds: float = 5, **fields: object) -> Stage:
    return Stage(name, seconds, (sys.executable, "-S", "-c", script), **fields)


def run(*stages: Stage, budget: float = 20) -> dict[str, dict[str, object]]:
    reported: list[object] = []
    results = Runner(stages, budget, reported.append).run()
    assert len(reported) == len(stages) and [one["stage"] for one in results] == [stage.name for stage in stages]
    return {one["stage"]: one for one in results}


def plan(machine: gpu.Machine, folder: Path, *, dry: bool) -> dict[str, Stage]:
    packages = None if dry else folder / "packages"
    return {stage.name: stage for stage in gpu.Run(machine, folder, packages, dry).stages()}


def test_a_stage_that_fails_or_hangs_stops_only_those_that_need_it(new_processes: None) -> None:
    results = run(
        python("breaks", "print('half'); raise SystemExit('no such card')"),
        python("hangs", "import time; time.sleep(60)", seconds=0.3),
        python("needs one of them", "print('{}')", needs=("breaks",)),
        python("left out", "print('{}')", skip=gpu.NO_CARD),
        python("needs nothing", "print('noise'); print('{\"tokens_per_second\": 7}')"),
    )
    assert [one["status"] for one in results.values()] == ["failed", "timeout", "skipped", "skipped", "ok"]
    assert results["breaks"]["error"] == "no such card"
    assert "“breaks”: failed" in results["needs one of them"]["error"]
    assert results["needs nothing"]["tokens_per_second"] == 7


def test_at_the_end_of_the_budget_a_stage_is_killed_and_no_other_begins(
    monkeypatch: pytest.MonkeyPatch, new_processes: None
) -> None:
    monkeypatch.setattr(gpu_stages, "LEAST_SECONDS", 0.05)
    results = run(
        python("long", "import time; time.sleep(60)", seconds=60),
        python("after it", "print('{}')", needs=("long",)),
        budget=0.3,
    )
    assert results["long"]["status"] == "timeout" and results["after it"]["status"] == "skipped"


def test_processes_in_sessions_of_their_own_are_killed_as_well(tmp_path: Path, new_processes: None) -> None:
    grandchild = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()) + '.'); time.sleep(60)"
    words = [sys.executable, "-S", "-c", grandchild]
    child = f"import subprocess, time; subprocess.Popen({words!r}, start_new_session=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-S", "-c", child], start_new_session=True)
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("."))
    pid = int((tmp_path / "pid").read_text().rstrip("."))
    gpu_stages.kill_all(process.pid)
    process.wait()
    wait_until(lambda: not has_not_ended(pid))


def has_not_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except OSError:
        return False


def test_one_stage_at_a_time_uses_the_gpu(tmp_path: Path, new_processes: None) -> None:
    script = f"import os; os.mkdir({str(tmp_path / 'busy')!r}); os.rmdir({str(tmp_path / 'busy')!r}); print('{{}}')"
    results = run(*(python(f"load {number}", script, uses_gpu=True) for number in range(3)))
    assert {one["status"] for one in results.values()} == {"ok"}


def test_log_probabilities_are_compared_with_the_reference() -> None:
    reference = {"stage": "CPU", "logprobs": [-1.0, -2.0]}
    near, far = ({"logprobs": [-1.0, -2.0 - apart]} for apart in (0.01, 0.5))
    assert gpu_stages.compare(near, reference, 0.1)["agrees"]
    compared = gpu_stages.compare(far, reference, 0.1)
    assert not compared["agrees"] and compared["difference"]["mean"] == pytest.approx(0.25)
    assert not gpu_stages.compare({"logprobs": []}, reference, 0.1)["agrees"], "nothing was compared"


def test_every_need_is_a_stage_and_every_load_is_compared(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for machine, dry in ((CARD, False), (CARD, True), (NONE, True)):
        with subtests.test(machine=machine, dry=dry):
            stages = plan(machine, tmp_path, dry=dry)
            for stage in stages.values():
                assert {*stage.needs, *([stage.reference] if stage.reference else [])} <= stages.keys() - {stage.name}
            loads = [stage for stage in stages.values() if stage.uses_gpu]
            assert len(loads) == 12 and all(stage.reference and stage.tolerance for stage in loads)


def test_without_a_card_what_needs_one_says_so_and_the_rest_runs(tmp_path: Path) -> None:
    skipped = {name for name, stage in plan(NONE, tmp_path, dry=True).items() if gpu.NO_CARD in stage.skip}
    assert skipped == {
        *("compile ExLlamav2's kernels", "Transformers, split by gpu-memory", "ExLlamav2", "ExLlamav2_HF"),
    }
    assert not [stage.name for stage in plan(CARD, tmp_path, dry=False).values() if gpu.NO_CARD in stage.skip]


def test_on_a_card_packages_come_from_the_folder_and_are_compiled_for_that_card(tmp_path: Path) -> None:
    variables = plan(CARD, tmp_path, dry=False)["install llama.cpp"].environment
    assert variables["PIP_NO_INDEX"] == "1" and variables["PIP_FIND_LINKS"] == str(tmp_path / "packages")
    assert variables["CMAKE_ARGS"].startswith("-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=90")
    assert "CMAKE_ARGS" not in plan(NONE, tmp_path, dry=True)["install llama.cpp"].environment


def test_a_toolkit_of_nvcc_alone_is_completed_by_the_packages_of_pytorch(tmp_path: Path) -> None:
    toolkit, package = tmp_path / "toolkit", tmp_path / "nvidia" / "cu13"
    for file in (package / "include" / "cublas_v2.h", package / "lib" / "libcublas.so.13"):
        file.parent.mkdir(parents=True)
        file.touch()
    found = gpu_toolkit.complete(toolkit, [package], tmp_path)
    assert found["CPATH"] == found["CMAKE_INCLUDE_PATH"] == str(package / "include")
    links = Path(found["LIBRARY_PATH"].split(":")[0])
    assert (links / "libcublas.so").resolve() == package / "lib" / "libcublas.so.13"
    assert gpu_toolkit.complete(toolkit, [package], tmp_path) == found, "the links exist already"
    assert "NO_VMM" in gpu_toolkit.definitions(toolkit, "8.6")
    for file in (toolkit / "include" / "cublas_v2.h", toolkit / "lib64" / "stubs" / "libcuda.so"):
        file.parent.mkdir(parents=True)
        file.touch()
    assert gpu_toolkit.complete(toolkit, [package], tmp_path) == {}
    assert gpu_toolkit.definitions(toolkit, "8.6") == "-DGGML_CUDA=on -DCMAKE_CUDA_ARCHITECTURES=86"


def test_the_stages_that_were_chosen_bring_those_that_they_need(tmp_path: Path) -> None:
    stages = list(plan(NONE, tmp_path, dry=True).values())
    assert [stage.name for stage in gpu.selected(stages, ["AutoAWQ"])] == [
        *("model tiny", "convert to awq", "CPU: AWQ, dequantized", "AutoAWQ"),
    ]
    assert gpu.selected(stages, []) == stages


def test_the_report_is_one_json_file_after_each_stage(tmp_path: Path, new_processes: None) -> None:
    output = tmp_path / "gpu.json"
    stages = [python("one", 'print(\'{"logprobs": [1], "answer": "猫"}\')'), python("two", "1/0", needs=("one",))]
    gpu.follow(stages, 20, output, {"dry_run": True})
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["dry_run"] and [one["stage"] for one in report["stages"]] == ["one", "two"]
    assert report["stages"][0]["answer"] == "猫" and "logprobs" not in report["stages"][0]
    assert "ZeroDivisionError" in report["stages"][1]["error"]
    assert list(tmp_path.iterdir()) == [output]


def test_all_stages_together_may_take_no_more_than_eight_minutes() -> None:
    assert gpu.BUDGET_SECONDS <= 8 * 60 - 15, "Python starts, and the last report is written"
    assert 0.9e9 < SIZES["billion"].parameters < 1.2e9


def test_packages_are_pinned_by_the_requirements() -> None:
    import gpu_packages

    pins = dict(gpu_packages.pinned("requirements.txt"))
    assert set(gpu_packages.MAIN) <= pins.keys() and all(re.search("=|<", pins[name]) for name in gpu_packages.MAIN)
    assert gpu_packages.UNUSED.search("llama-1/.git/modules/vendor/pack")
    assert gpu_packages.UNUSED.search("llama-1/vendor/llama.cpp/models/ggml-vocab.gguf")
    assert gpu_packages.UNUSED.search("llama-1/vendor/llama.cpp/tools/server/server.cpp")
    for needed in (
        "vendor/llama.cpp/ggml/src/ggml-cuda/mmq.cu",
        "vendor/llama.cpp/tools/mtmd/mtmd.cpp",
        "CMakeLists.txt",
    ):
        assert not gpu_packages.UNUSED.search(f"llama-1/{needed}"), needed
