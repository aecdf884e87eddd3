"""What transformers makes of tokens in float32: a script, so that torch lives in a process of its own.

`python -m tests.hf_logits <what.json>`: "models" are folders by their names, "adapters" too. The logits after each of
"tokens" are saved in "out", by the name of the model, and by that and the adapter's with a space between them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np


def logits_of(work: Path, tokens: list[int], models: dict[str, Path], adapters: dict[str, Path]) -> dict[str, Any]:
    what, out = work / "hf.json", work / "hf.npz"
    asked = {"models": models, "adapters": adapters, "tokens": tokens, "out": out}
    what.write_text(json.dumps(asked, default=str))
    command = [sys.executable, "-m", "tests.hf_logits", str(what)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert told.returncode == 0, told.stderr
    return dict(np.load(out))


def main() -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    asked = json.loads(Path(sys.argv[1]).read_text())
    found = {}
    with torch.no_grad():
        for name, path in asked["models"].items():
            model: Any = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
            found[name] = _logits(model, asked["tokens"])
            for adapter, folder in asked["adapters"].items():
                adapted: Any = PeftModel.from_pretrained(model, folder).eval()
                found[f"{name} {adapter}"] = _logits(adapted, asked["tokens"])
                model = adapted.unload()
    np.savez(asked["out"], **found)


def _logits(model: Any, tokens: list[int]) -> Any:
    import torch

    return model(torch.tensor([tokens])).logits[0].numpy()


if __name__ == "__main__":
    main()
