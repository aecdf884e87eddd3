"""An App whose training runs compute nothing: see tests/support/echo_trainer.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from modules.app import App
from modules.training.run import RunFacts, RunFolder, RunView
from tests.support.checkpoint_files import checkpoint

ROWS = [{"instruction": f"What is {number}?", "output": f"A number, {number}."} for number in range(10)]
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PARAMETERS: dict[str, Any] = {"model": "model", "lora_name": "a", "dataset": "facts"}


def training_app(make_app: Callable[..., App], folder: Path, *flags: str, model: str = "model") -> App:
    """Return an App with a model and a dataset "facts" in `folder`, which is that of the test."""
    (folder / "datasets").mkdir()
    (folder / "datasets" / "facts.json").write_text(json.dumps(ROWS))
    checkpoint(folder / "models" / model, tokenizer_config={"chat_template": TEMPLATE, "eos_token": "</s>"})
    folders = {"dataset": "datasets", "lora": "loras", "run": "runs"}
    words = [word for key, name in folders.items() for word in (f"--{key}-dir", str(folder / name))]
    app = make_app(*words, *flags)
    app.training.runs._program = "tests.support.echo_trainer"
    return app


def add_run(app: App, name: str, model: str = "model", adapter: str = "") -> None:
    """Write the folder of a run that has finished, whose LoRA is `adapter`."""
    facts = RunFacts(name, model, "", "safetensors", "", "", 5, {"lora_name": name}, {}, 0.0)
    folder = RunFolder(app.training.runs.folder / name)
    folder.path.mkdir(parents=True)
    folder.create(facts)
    folder.save(RunView(facts, "finished", adapter=adapter))
