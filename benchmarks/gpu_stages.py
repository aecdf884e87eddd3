"""Run stages with time limits, several at once, within a budget for all of them: the part of `gpu.py` without a GPU.

A stage is a command in a session of its own. At its limit, or at the end of the budget, its process group and all its
descendants are killed. A stage that fails never stops one that does not need it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from program import ROOT, process_tree

ERROR_CHARACTERS = 1500
LEAST_SECONDS = 2.0
"""A stage is not begun if less time is left for it."""
CPU_STAGES = 4
"""Stages that do not use the GPU and run at the same time."""


@dataclass(frozen=True)
class Stage:
    """One step. `command` prints its figures as a JSON object in its last line, or nothing.

    Attributes:
        needs: Names of stages that must have ended well.
        uses_gpu: Whether it must not run beside another stage that does.
        skip: Why it is not run here; "" if it is.
        environment: Variables that are added to those of this process.
        reference: Stage with whose log-probabilities its own are compared.
        tolerance: Largest mean difference of the log-probabilities at which both agree, in nats.
    """

    name: str
    seconds: float
    command: Sequence[str]
    needs: tuple[str, ...] = ()
    uses_gpu: bool = False
    skip: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    reference: str = ""
    tolerance: float = 0.0


@dataclass(frozen=True)
class Request:
    """A run of `gpu_load.py`: load a model of the folder `models`, generate `answer` tokens and score `scored` others.

    `vocabulary` bounds the ids of the tokens that are scored; with `cpu`, all GPUs are hidden.
    """

    models: str
    model: str
    loader: str
    options: Mapping[str, object] = field(default_factory=dict)
    vocabulary: int = 512
    cpu: bool = False
    answer: int = 128
    scored: int = 256


Result = dict[str, Any]


class Runner:
    """Runs stages until all have ended or `budget` seconds have passed; `report` gets each result."""

    def __init__(self, stages: Sequence[Stage], budget: float, report: Callable[[Result], None]) -> None:
        self._stages, self._report = stages, report
        self._end = time.monotonic() + budget
        self._results: dict[str, Result] = {}
        self._changed = threading.Condition()
        self._lanes = {True: threading.Semaphore(1), False: threading.Semaphore(CPU_STAGES)}

    def run(self) -> list[Result]:
        """Return the results in the order of the stages."""
        threads = [threading.Thread(target=self._run_when_ready, args=(stage,)) for stage in self._stages]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [self._results[stage.name] for stage in self._stages]

    def _run_when_ready(self, stage: Stage) -> None:
        result = {"status": "skipped", "error": stage.skip} if stage.skip else self._wait_and_run(stage)
        with self._changed:
            if stage.reference and result["status"] == "ok":
                result |= compare(result, self._results[stage.reference], stage.tolerance)
            self._results[stage.name] = {"stage": stage.name, **result}
            self._changed.notify_all()
        self._report(self._results[stage.name])

    def _wait_and_run(self, stage: Stage) -> Result:
        needs = {*stage.needs, *([stage.reference] if stage.reference else [])}
        with self._changed:
            if not self._changed.wait_for(lambda: needs <= self._results.keys(), self._left):
                return {"status": "skipped", "error": "no time was left"}
            for name in sorted(needs):
                if self._results[name]["status"] != "ok":
                    return {"status": "skipped", "error": f"it needs “{name}”: {self._results[name]['status']}"}
        with self._lanes[stage.uses_gpu]:
            if self._left < LEAST_SECONDS:
                return {"status": "skipped", "error": "no time was left"}
            return execute(stage.command, min(stage.seconds, self._left), stage.environment)

    @property
    def _left(self) -> float:
        return max(self._end - time.monotonic(), 0.0)


def execute(command: Sequence[str], seconds: float, environment: Mapping[str, str]) -> Result:
    """Run a command for at most `seconds`; return its status, its time, and its figures or the end of its output."""
    began = time.monotonic()
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, errors = child.communicate(timeout=seconds)
        status = "failed" if child.returncode else "ok"
    except subprocess.TimeoutExpired:
        kill_all(child.pid)
        output, errors = child.communicate()
        status = "timeout"
    result: Result = {"status": status, "seconds": round(time.monotonic() - began, 1)}
    if status != "ok":
        return {**result, "error": (errors or output).strip()[-ERROR_CHARACTERS:] or f"exit status {child.returncode}"}
    return {**result, **_figures(output)}


def kill_all(pid: int) -> None:
    """Kill the process group of `pid` and all its descendants, which may be in sessions of their own."""
    try:
        descendants = list(process_tree(pid))
    except OSError:  # one of them has just ended
        descendants = []
    for kill, target in [(os.killpg, pid), *((os.kill, one) for one in descendants)]:
        try:
            kill(target, signal.SIGKILL)
        except ProcessLookupError:
            continue


def _figures(output: str) -> Result:
    lines = output.strip().splitlines()
    try:
        figures = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return {}
    return figures if isinstance(figures, dict) else {}


def compare(result: Result, reference: Result, tolerance: float) -> Result:
    """Return how far the log-probabilities of two loads are apart, in nats."""
    ours, theirs = result.get("logprobs", []), reference.get("logprobs", [])
    if not ours or len(ours) != len(theirs):
        return {"agrees": False, "difference": None}
    apart = [abs(one - other) for one, other in zip(ours, theirs, strict=True)]
    mean = sum(apart) / len(apart)
    facts = {"mean": round(mean, 5), "largest": round(max(apart), 5), "tolerance": tolerance}
    return {"agrees": mean <= tolerance, "difference": {"reference": reference["stage"], **facts}}


def write_report(path: Path, facts: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Write the JSON file, whole or not at all; log-probabilities, which are compared already, are left out."""
    stages = [{key: value for key, value in one.items() if key != "logprobs"} for one in results]
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps({**facts, "stages": stages}, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    part.replace(path)
