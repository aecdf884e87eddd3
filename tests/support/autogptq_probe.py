"""A script that loads models with auto-gptq and checks its monkey patches and its fused attention; needs the overlay.

`python -m tests.support.autogptq_probe <folder> <invalid folder>` prints a JSON object: whether the functions of torch
and transformers are the original ones after each load, and the error of auto-gptq's own fused attention ("" if none).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from modules.core.paths import ROOT
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import LOADERS


def run_probe(folder: Path, invalid: Path) -> dict[str, Any]:
    """Run this script in a child process and return its JSON object."""
    loader = LOADERS["AutoGPTQ"]
    assert loader.overlay is not None
    command = [sys.executable, "-m", "tests.support.autogptq_probe", str(folder), str(invalid)]
    environment = os.environ | {"PYTHONPATH": str(loader.overlay.folder)}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr
    report: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return report


def main() -> None:
    import torch
    import transformers

    from modules.engines.autogptq import build as loading

    modeling: Any = transformers.modeling_utils

    def patchable() -> list[Any]:
        """Return the functions that auto-gptq replaces during a load."""
        initializers = [getattr(torch.nn.init, name) for name in ("kaiming_uniform_", "uniform_", "normal_")]
        package = vars(loading)["package"]
        load_checkpoint = package.accelerate.utils.modeling.load_checkpoint_in_model
        return [*initializers, modeling._init_weights, load_checkpoint, package.simple_dispatch_model]

    options = option_values(resolve(LOADERS["AutoGPTQ"], model={}, saved={}, flags={}, form={}))
    originals, report = patchable(), {}
    loading.engine(Path(sys.argv[1]), options, lambda _: None)
    report["restored"] = patchable() == originals
    try:
        loading.engine(Path(sys.argv[2]), options, lambda _: None)
    except ValueError as error:
        report["error"], report["restored_after_error"] = str(error), patchable() == originals
    loading.injecting_our_attention = loading.contextlib.nullcontext  # type: ignore[attr-defined]
    try:
        loading.engine(Path(sys.argv[1]), options, lambda _: None)
        report["fused_attention_error"] = ""
    except (AttributeError, ValueError, TypeError) as error:
        report["fused_attention_error"] = str(error)
    print(json.dumps(report))


if __name__ == "__main__":
    main()
