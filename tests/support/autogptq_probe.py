"""Load by auto-gptq and check what remains patched, and try its own fused attention: a script with the overlay.

`python -m tests.support.autogptq_probe <folder> <folder that cannot be loaded>` prints a JSON object: whether torch's
and transformers' functions are the original ones after each load; and the error that auto-gptq's own fused attention
ends in, "" if it works.
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


def looked_at(folder: Path, broken: Path) -> dict[str, Any]:
    loader = LOADERS["AutoGPTQ"]
    assert loader.overlay is not None
    command = [sys.executable, "-m", "tests.support.autogptq_probe", str(folder), str(broken)]
    environment = os.environ | {"PYTHONPATH": str(loader.overlay.folder)}
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout.splitlines()[-1])
    return found


def main() -> None:
    import torch
    import transformers

    from modules.engines.autogptq import build as loading

    modeling: Any = transformers.modeling_utils
    watched = ("kaiming_uniform_", "uniform_", "normal_")

    def state() -> list[Any]:
        own = [getattr(torch.nn.init, name) for name in watched]
        package = vars(loading)["package"]
        reading = package.accelerate.utils.modeling.load_checkpoint_in_model
        return [*own, modeling._init_weights, reading, package.simple_dispatch_model]

    settled = option_values(resolve(LOADERS["AutoGPTQ"], model={}, saved={}, flags={}, form={}))
    before, facts = state(), {}
    loading.engine(Path(sys.argv[1]), settled, lambda _: None)
    facts["after"] = state() == before
    try:
        loading.engine(Path(sys.argv[2]), settled, lambda _: None)
    except ValueError as error:
        facts["refused"], facts["after that"] = str(error), state() == before
    loading.injecting_our_attention = loading.contextlib.nullcontext  # type: ignore[attr-defined]
    try:
        loading.engine(Path(sys.argv[1]), settled, lambda _: None)
        facts["own"] = ""
    except (AttributeError, ValueError, TypeError) as error:
        facts["own"] = str(error)
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
