"""Try every loader on an NVIDIA GPU, in at most eight minutes and without a network; write one JSON file.

    python benchmarks/gpu.py --output gpu.json --packages .gpu

It makes models from a seed, compiles llama.cpp and ExLlamaV2 for the card, loads each model as server.py does, lets it
answer, and compares log-probabilities with the CPU's, memory with the estimate, and notes tokens a second. Stages have
time limits of their own; one that fails or is killed stops no other. `--dry-run` does the same with a tiny model on a
machine without a card: what needs one says so. `gpu_packages.py` fills the folder of `--packages` beforehand.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import gpu_toolkit
from gpu_models import SIZES
from gpu_stages import Request, Result, Runner, Stage, write_report
from program import ROOT

sys.path.insert(0, str(ROOT))
from modules.loaders.availability import overlay_of
from modules.loaders.registry import LOADERS
from modules.system.gpus import nvidia_gpus

BUDGET_SECONDS = 460.0
NO_CARD = "needs an NVIDIA card"
EXACT, HALF, PACKED = 0.01, 0.1, 0.2
"""Tolerances, in nats, for the same arithmetic, for 16 bits against 32, and for kernels of packed weights."""


@dataclass(frozen=True)
class Machine:
    """The facts that a plan depends on. `capability` is the card's, such as "9.0"; empty without a card."""

    capability: str
    nvcc: bool
    cores: int

    @staticmethod
    def detect() -> Machine:
        capability = ""
        if nvidia_gpus():
            script = "import torch; print('%d.%d' % torch.cuda.get_device_capability())"
            ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
            capability = ran.stdout.strip()
        return Machine(capability, shutil.which("nvcc") is not None, os.cpu_count() or 1)


@dataclass(frozen=True)
class Run:
    """A run in the folder `work`. `packages` is None where the environment has everything, as in a dry run."""

    machine: Machine
    work: Path
    packages: Path | None
    dry: bool

    def stages(self) -> list[Stage]:
        """Return the plan: packages, models, compilations, references on the CPU, and then the loads."""
        return [*self._packages(), *self._models(), *self._references(), *self._loads()]

    @property
    def large(self) -> str:
        return "tiny" if self.dry else "billion"

    @property
    def small(self) -> str:
        return "tiny" if self.dry else "shallow"

    @cached_property
    def environment(self) -> dict[str, str]:
        """Variables of all stages: no network, packages from the folder, and compilation for this card alone."""
        jobs = str(max(self.machine.cores // 2, 1))
        variables = {"HF_HUB_OFFLINE": "1", "MAX_JOBS": jobs, "CMAKE_BUILD_PARALLEL_LEVEL": jobs}
        if self.packages is not None:
            paths = [str(self.work / "site"), os.environ.get("PYTHONPATH", "")]
            variables |= {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
            variables |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.packages)}
        if self.machine.capability:
            variables |= {
                "TORCH_CUDA_ARCH_LIST": self.machine.capability,
                "CMAKE_ARGS": gpu_toolkit.definitions(gpu_toolkit.TOOLKIT, self.machine.capability),
                **gpu_toolkit.prepended(
                    gpu_toolkit.complete(gpu_toolkit.TOOLKIT, gpu_toolkit.nvidia_packages(), self.work)
                ),
            }
        return variables

    def _stage(self, name: str, seconds: float, *command: str, needs: tuple[str, ...] = (), skip: str = "") -> Stage:
        return Stage(name, seconds, (sys.executable, *command), needs, skip=skip, environment=self.environment)

    # -- packages and models -------------------------------------------------------------------------------------------

    def _packages(self) -> list[Stage]:
        words = ("-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--target", str(self.work / "site"))
        main = sorted(map(str, (self.packages / "main").glob("*.whl"))) if self.packages else []
        skip = "" if main else "the environment has these packages already"
        stages = [self._stage("packages of the main environment", 60, *words, *main, skip=skip)]
        for loader, seconds in (("llama.cpp", 330), ("ExLlamav2", 60), ("Transformers", 120), ("AutoGPTQ", 120)):
            reason = self._why_not_installed(loader)
            needs = ("packages of the main environment",) if main else ()
            stages.append(
                self._stage(f"install {loader}", seconds, "server.py", "--install", loader, needs=needs, skip=reason)
            )
        command = ("-c", "import exllamav2.ext")
        reason = "" if self.machine.capability and self.machine.nvcc else f"{NO_CARD} and nvcc"
        needs = () if stages[2].skip else ("install ExLlamav2",)
        compile_kernels = self._stage("compile ExLlamav2's kernels", 300, *command, needs=needs, skip=reason)
        folder = str(overlay_folder("ExLlamav2"))
        paths = os.pathsep.join([folder, str(ROOT), self.environment.get("PYTHONPATH", "")])
        programs = os.pathsep.join([f"{folder}/bin", os.environ.get("PATH", os.defpath)])
        variables = {**self.environment, "PYTHONPATH": paths, "PATH": programs}
        return [*stages, replace(compile_kernels, environment=variables)]

    def _why_not_installed(self, loader: str) -> str:
        overlay = overlay_of(LOADERS[loader], "gptq" if loader == "Transformers" else "")
        if overlay is None or overlay.is_installed:
            return "it is installed already"
        return "a dry run installs nothing" if self.dry else ""

    def _models(self) -> list[Stage]:
        script, needs = str(ROOT / "benchmarks" / "gpu_models.py"), self._first
        made = [self._stage(f"model {name}", 150, script, str(self.work), name, needs=needs) for name in self._sizes]
        for kind in ("gptq", "awq"):
            words = ("-m", "tests.support.quantized_folders", str(self.work / self.small), str(self.work / kind), kind)
            made.append(self._stage(f"convert to {kind}", 120, *words, needs=(f"model {self.small}",)))
        return made

    @property
    def _sizes(self) -> list[str]:
        return sorted({self.small, self.large}, reverse=True)

    @property
    def _first(self) -> tuple[str, ...]:
        """The stage that all others need, if there is one."""
        return () if self._packages()[0].skip else ("packages of the main environment",)

    # -- loads ---------------------------------------------------------------------------------------------------------

    def _load(
        self,
        name: str,
        seconds: float,
        model: str,
        loader: str,
        options: Mapping[str, object] | None = None,
        *,
        needs: tuple[str, ...],
        cpu: bool = False,
        only_card: bool = False,
        reference: str = "",
        tolerance: float = 0.0,
    ) -> Stage:
        """Return the stage of one load; `model` may begin with the folder of a conversion, as in "gptq/plain"."""
        folder, _, file = model.rpartition("/")
        size = SIZES[self.large if file.startswith(self.large) else self.small]
        answer, scored = (16, 64) if self.dry else (128, 256)
        request = Request(
            str(self.work / folder), file, loader, options or {}, size.vocabulary, cpu, 1 if cpu else answer, scored
        )
        skip = NO_CARD if only_card and not self.machine.capability else ""
        words = (str(ROOT / "benchmarks" / "gpu_load.py"), json.dumps(asdict(request)))
        stage = self._stage(name, seconds, *words, needs=(*self._first, *needs), skip=skip)
        return replace(stage, uses_gpu=not cpu, reference=reference, tolerance=tolerance)

    def _references(self) -> list[Stage]:
        """Return loads with all GPUs hidden."""
        large, small = (f"model {self.large}",), (f"model {self.small}",)
        eight, four = {"load_in_8bit": True}, {"load_in_4bit": True, "compute_dtype": "float32"}
        load, hf = self._load, "Transformers"
        return [
            load("CPU: Transformers", 120, self.large, hf, needs=large, cpu=True),
            load("CPU: Transformers, 8 bits", 90, self.small, hf, eight, needs=small, cpu=True),
            load("CPU: Transformers, 4 bits", 90, self.small, hf, four, needs=small, cpu=True),
            load("CPU: GPTQ, dequantized", 90, "gptq/plain", hf, needs=("convert to gptq",), cpu=True),
            load("CPU: AWQ, dequantized", 90, "awq/plain", hf, needs=("convert to awq",), cpu=True),
        ]

    def _loads(self) -> list[Stage]:
        large, small, hf = (f"model {self.large}",), (f"model {self.small}",), "Transformers"
        gptq, awq = f"gptq/{self.small}-GPTQ", f"awq/{self.small}-AWQ"
        plain, plain_gptq, plain_awq = "CPU: Transformers", "CPU: GPTQ, dequantized", "CPU: AWQ, dequantized"
        load, bf16 = self._load, {"bf16": True}
        eight, four = {"load_in_8bit": True}, {"load_in_4bit": True, "compute_dtype": "float32"}
        from_gptq, from_awq = ("convert to gptq",), ("convert to awq",)
        in_gptq = {"needs": from_gptq, "reference": plain_gptq, "tolerance": PACKED}
        in_awq = {"needs": from_awq, "reference": plain_awq, "tolerance": PACKED}
        in_large = {"needs": large, "reference": plain, "tolerance": HALF}
        engine = self._needs("install llama.cpp")
        in_gguf = {**in_large, "needs": (*large, *engine), "tolerance": PACKED}
        exllama = {**in_gptq, "needs": (*from_gptq, "compile ExLlamav2's kernels"), "only_card": True}
        split = {"bf16": True, "gpu_memory": "1", "cpu_memory": "16"}
        return [
            load("Transformers, bfloat16", 90, self.large, hf, bf16, **in_large),
            load("Transformers, split by gpu-memory", 90, self.large, hf, split, only_card=True, **in_large),
            load(
                *("Transformers, 8 bits", 90, self.small, hf, eight),
                needs=small,
                reference="CPU: Transformers, 8 bits",
                tolerance=PACKED,
            ),
            load(
                *("Transformers, 4 bits", 90, self.small, hf, four),
                needs=small,
                reference="CPU: Transformers, 4 bits",
                tolerance=HALF,
            ),
            load("llama.cpp", 60, f"{self.large}.gguf", "llama.cpp", {"n_gpu_layers": 17}, **in_gguf),
            load("llama.cpp, half", 60, f"{self.large}.gguf", "llama.cpp", {"n_gpu_layers": 8}, **in_gguf),
            load("Transformers, GPTQ", 200, gptq, hf, **self._with_packages(in_gptq, "install Transformers")),
            load("Transformers, AWQ", 200, awq, hf, **self._with_packages(in_awq, "install Transformers")),
            load("AutoGPTQ", 90, gptq, "AutoGPTQ", **self._with_packages(in_gptq, "install AutoGPTQ")),
            load("AutoAWQ", 90, awq, "AutoAWQ", **self._with_packages(in_awq, "install AutoGPTQ")),
            load("ExLlamav2", 90, gptq, "ExLlamav2", **exllama),
            load("ExLlamav2_HF", 90, gptq, "ExLlamav2_HF", **exllama),
        ]

    def _needs(self, installation: str) -> tuple[str, ...]:
        """Return the installation unless there is nothing to install."""
        loader = installation.removeprefix("install ")
        reason = self._why_not_installed(loader)
        return () if reason == "it is installed already" else (installation,)

    def _with_packages(self, arguments: Mapping[str, object], installation: str) -> dict[str, object]:
        return {**arguments, "needs": (*arguments["needs"], *self._needs(installation))}


def overlay_folder(loader: str) -> Path:
    overlay = LOADERS[loader].overlay
    assert overlay is not None
    return overlay.folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="with a tiny model, also on a machine without a card")
    parser.add_argument("--plan", action="store_true", help="print the stages and run none")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="WORD", help="stages whose names have one of the words"
    )
    parser.add_argument("--output", type=Path, default=Path("gpu.json"))
    parser.add_argument("--packages", type=Path, help="folder that gpu_packages.py has filled")
    parser.add_argument("--work", type=Path, help="folder for models of 5 GB; by default a temporary one")
    parser.add_argument("--budget", type=float, default=BUDGET_SECONDS, help="seconds for all stages")
    args = parser.parse_args()
    machine = Machine.detect()
    if not machine.capability and not args.dry_run:
        sys.exit("There is no NVIDIA card here. --dry-run tries the stages that run on a CPU.")
    with tempfile.TemporaryDirectory(prefix="gpu-") as temporary:
        work = args.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        run = Run(machine, work.resolve(), args.packages.resolve() if args.packages else None, args.dry_run)
        stages = selected(run.stages(), args.only)
        if args.plan:
            print(json.dumps([{"stage": one.name, "seconds": one.seconds, "skip": one.skip} for one in stages]))
            return
        results = follow(stages, args.budget, args.output, {"machine": asdict(machine), "dry_run": args.dry_run})
    if args.dry_run and any(one["status"] in ("failed", "timeout") or one.get("agrees") is False for one in results):
        sys.exit("The dry run has failed.")


def selected(stages: Sequence[Stage], words: Sequence[str]) -> list[Stage]:
    """Return the stages with one of the words in their names, and those that they need."""
    by_name = {stage.name: stage for stage in stages}
    names = {name for name in by_name if not words or any(word.lower() in name.lower() for word in words)}
    waiting = list(names)
    while waiting:
        stage = by_name[waiting.pop()]
        new = {*stage.needs, *filter(None, [stage.reference])} - names
        names |= new
        waiting += new
    return [stage for stage in stages if stage.name in names]


def follow(stages: Sequence[Stage], budget: float, output: Path, facts: Mapping[str, object]) -> list[Result]:
    """Run the stages; print each result and write all of them so far to `output`."""
    done: list[Result] = []
    lock = threading.Lock()

    def report(result: Result) -> None:
        with lock:
            done.append(result)
            write_report(output, facts, done)
            print(line_of(result), flush=True)

    return Runner(stages, budget, report).run()


def line_of(result: Result) -> str:
    """Return one line about a result for the terminal."""
    words = [f"{result['status']:8}", f"{result.get('seconds', 0):6.1f} s", result["stage"]]
    if result.get("generated_tokens", 0) > 1:
        words.append(f"{result['tokens_per_second']} tokens/s")
    if result.get("difference"):
        words.append(f"{'agrees' if result['agrees'] else 'DIFFERS'} ({result['difference']['mean']} nats)")
    if "error" in result:
        words.append(result["error"].splitlines()[-1][:150] if result["error"] else "")
    return "  ".join(words)


if __name__ == "__main__":
    main()
