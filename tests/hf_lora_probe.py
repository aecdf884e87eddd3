"""Looks at the model that the engine drives before, with and after LoRAs: a script, so that torch lives in a process of
its own.

`python -m tests.hf_lora_probe <model> <folder of LoRAs> <options as JSON> <name>...` prints a JSON object: "changed",
the largest change of a logit with all of those in force; after they have been taken out, "same", whether every logit is
what it was to the last bit, "left", the names of modules that were not there before, and "moved", those that are
others than before.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from modules.loaders import LOADERS, settle, values


def looked_at(model: Path, loras: Path, names: list[str], **options: Any) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.hf_lora_probe", str(model), str(loras), json.dumps(options), *names]
    told = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert told.returncode == 0, told.stderr
    found: dict[str, Any] = json.loads(told.stdout)
    return found


def main() -> None:
    import numpy as np

    from modules.engines.hf import Transformers
    from modules.engines.hf_lora import HfAdapters

    path, loras, options = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
    settled = values(settle(LOADERS["Transformers"], model={}, saved={}, flags={}, form=options))
    made: Any = Transformers(path, settled, lambda _: None)
    model: Any = made.model
    adapters = HfAdapters(model, 64, made.forget)
    modules = dict(model.module.named_modules())
    before = adapters.probe()
    adapters.put([(adapters.open(loras / name), 1.0) for name in sys.argv[4:]])
    with_them = adapters.probe()
    adapters.put([])
    after = adapters.probe()
    now = dict(model.module.named_modules())
    facts = {
        "changed": float(np.abs(with_them - before).max()),
        "same": bool((before == after).all()),
        "left": sorted(set(now) - set(modules)),
        "moved": sorted(name for name, each in modules.items() if now.get(name) is not each),
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
