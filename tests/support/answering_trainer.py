"""`modules.trainer` with a base model that answers before it is trained, or whose kernel is not made for training.

Words in the name of the base model control it: `answers` writes eight tokens first, as in a chat; the word behind
`kernel` names a kernel of gptqmodel instead of the one that is chosen, "default" leaves the choice to gptqmodel.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from modules import trainer
from modules.engines.training.job import TrainingJob


def main() -> None:
    words = TrainingJob.read(Path(sys.argv[1])).name.split()
    from modules.engines.training import arguments, session

    if "kernel" in words:
        name = words[words.index("kernel") + 1]
        arguments.training_kernel = lambda *_: {} if name == "default" else {"backend": name}
    if "answers" in words:
        session.BaseModel = _answering()  # type: ignore[assignment, attr-defined, misc]
    trainer.main()


def _answering() -> type:
    from modules.engines.training.base_model import BaseModel

    class Answering(BaseModel):
        """A base model that answers once it is loaded."""

        def __init__(self, job: TrainingJob, advance: Callable[[float], None]) -> None:
            import torch

            super().__init__(job, advance)
            ids = self.tokenizer("What is new?", return_tensors="pt")["input_ids"]
            with torch.no_grad():
                self.module.generate(ids, max_new_tokens=8, do_sample=False)

    return Answering


if __name__ == "__main__":
    main()
