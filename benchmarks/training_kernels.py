"""Training of GPTQ weights in bfloat16: after the model has answered, and by a kernel without gradients.

A tiny model with random weights is trained alone, after an answer, which must change no loss, and by a kernel that
repacks its weights at the first answer, so that most adapters get no gradient: the check at the first update must fail
that run.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from figures import session, table, verdict
from program import MODEL, ROOT

sys.path.insert(0, str(ROOT))
from modules.catalog.record import ModelRecord
from modules.core.training_errors import NoGradient
from modules.loaders.load_settings import option_values, resolve
from modules.loaders.registry import find_loader
from modules.training.parameters import parse_parameters
from modules.training.run import RunView
from modules.training.runs import RunRequest, TrainingRuns
from tests.support import gptq_tiny
from tests.support.hf_folder import transformers_folder
from tests.support.training_jobs import SMALL, losses, samples

RUNS = ("alone", "answers", "answers kernel gptq_torch_aten")
"""Names of base models, by which tests/support/answering_trainer.py knows what to do."""


def main() -> None:
    with tempfile.TemporaryDirectory() as name, session("Training: kernels of GPTQ weights"):
        folder = Path(name)
        model = gptq_tiny.write(folder / "model", transformers_folder(MODEL), gptq_tiny.tensors(), bits=4)
        found = {run: _train(folder / run, model, run) for run in RUNS}
        table(
            ("run", "state", "losses"),
            [(run, view.state, ", ".join(f"{loss:.4f}" for loss in lost)) for run, (view, lost) in found.items()],
        )
        (alone, expected), (_, after), (caught, _) = found.values()
        same = alone.state == "finished" and after == expected
        verdict("Losses after an answer", f"{len(after)} updates", "as without", same)
        print(caught.error)
        failed = isinstance(caught.error, NoGradient)
        verdict("Kernel without gradients", caught.state, "failed by the check", failed)


def _train(folder: Path, model: Path, name: str) -> tuple[RunView, list[float]]:
    """Return the end of a run, and its losses."""
    runs = TrainingRuns(folder / "runs", folder / "loras", "tests.support.answering_trainer")
    options = option_values(resolve(find_loader("Transformers"), model={}, saved={}, flags={}, form={}))
    parameters = parse_parameters({**SMALL, "base_weights": "bfloat16", "lora_dropout": 0, "cpu": True})
    run = runs.start(RunRequest(ModelRecord(name, model, "gptq", 1), options, parameters, samples(12)))
    view, found = runs.wait(run), losses(runs.log(run))
    runs.close()
    return view, list(found.values())


if __name__ == "__main__":
    main()
