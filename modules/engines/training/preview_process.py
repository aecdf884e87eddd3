"""Preview the data of a run in a process of its own, which loads the tokenizer of the model and nothing else.

Run as `python -m modules.engines.training.preview_process FOLDER SEED`, the folder being that of a job. It writes one
JSON object a line to stdout, as the training process does.
"""

from __future__ import annotations

import json
import sys
import traceback
from pathlib import Path

from modules.core.errors import WebUIError
from modules.core.events import Json
from modules.core.training_errors import TrainingFailed
from modules.engines.hf.arguments import TOKENIZER, arguments
from modules.engines.hf.environment import likely_environment
from modules.engines.hf.model_folder import folder_for_transformers, in_folder
from modules.engines.training.job import TrainingJob
from modules.engines.training.preview import preview
from modules.engines.training.samples import read_samples
from modules.engines.training.tokens import Limits, OffsetTokenizer
from modules.system import child_process


def main() -> None:
    commands, channel = child_process.take_stdin(), child_process.take_stdout()
    child_process.end_with_parent(commands.fileno())
    try:
        event = {"event": "done", "preview": _preview(TrainingJob.read(Path(sys.argv[1])), int(sys.argv[2]))}
    except Exception as error:  # the error edge of this process
        if not isinstance(error, WebUIError):
            traceback.print_exception(error)
            error = TrainingFailed(f"{type(error).__name__}: {error}".splitlines()[0][:300])
        event = {"event": "failed", **error.to_json()}
    channel.write(json.dumps(event).encode() + b"\n")


def _preview(job: TrainingJob, seed: int) -> Json:
    from modules.engines.training.tokenizer import load_tokenizer  # imports transformers

    calls = in_folder(arguments(job.base, job.options, likely_environment()), folder_for_transformers(job.base))
    tokenizer = OffsetTokenizer(load_tokenizer(calls[TOKENIZER], job.name))
    return preview(list(read_samples(job.train)), tokenizer, Limits.of(job.parameters), seed)


if __name__ == "__main__":
    main()
