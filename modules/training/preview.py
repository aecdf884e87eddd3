"""Previews of data: how it will be tokenized and what is trained, before any weights are loaded."""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.core.errors import WebUIError
from modules.core.events import Json
from modules.core.recent import Recent
from modules.core.training_errors import TrainerDied
from modules.engines.training.job import JOB, TrainingJob
from modules.engines.training.samples import Sample, samples_hash
from modules.options.option import Value
from modules.training.dataset.errors import PreviewFailed
from modules.training.dataset.prepare import Prepared, PreparedFile
from modules.training.process import TrainingProcess
from modules.training.start import fingerprint, overlay_for

PROGRAM = "modules.engines.training.preview_process"
SECONDS = 120.0
"""After so long, a preview is given up."""
_KEPT = 8
"""Previews that are remembered."""


class Previews:
    """Tokenizes data in child processes, one at a time. Any thread may call."""

    def __init__(self, program: str = PROGRAM) -> None:
        self._program = program
        self._lock = threading.Lock()
        self._known: Recent[str, Json] = Recent(_KEPT)

    def preview(
        self,
        record: ModelRecord,
        options: Mapping[str, Value],
        parameters: Mapping[str, Value],
        prepared: Prepared,
        seed: int = 0,
    ) -> Json:
        """Return what a page shows of the data: see `engines.training.preview`, and `bad`, `notes` and `evaluation`.

        `options` are the load options of the model. Data without a usable row has no `examples`. Raises PreviewFailed,
        or what the tokenizer raises.
        """
        tokens: Json = {}
        if prepared.training:
            key = _key(record, options, parameters, prepared.training, seed)
            with self._lock:
                known = self._known.get(key)
                tokens = self._run(record, options, parameters, prepared.training, seed) if known is None else known
                self._known[key] = tokens
        files = [file for file in (prepared.file, prepared.evaluation_file) if file]
        return {
            **tokens,
            "evaluation": len(prepared.evaluation),
            "files": [_file(file) for file in files],
            "notes": [dict(note) for note in prepared.notes],
        }

    def _run(
        self,
        record: ModelRecord,
        options: Mapping[str, Value],
        parameters: Mapping[str, Value],
        samples: Sequence[Sample],
        seed: int,
    ) -> Json:
        with tempfile.TemporaryDirectory(prefix="preview-") as name:
            folder = Path(name)
            rows = folder / "train.jsonl"
            with rows.open("wb") as file:
                file.writelines(sample.to_line() for sample in samples)
            job = TrainingJob(folder, record.path, record.name, options, parameters, rows)
            (folder / JOB).write_text(json.dumps(job.to_json()), encoding="utf-8")
            process = TrainingProcess(folder, overlay_for(record.format), self._program, str(seed))
            timer = threading.Timer(SECONDS, process.kill)
            timer.start()
            try:
                (event,) = process.events()
            except TrainerDied as died:
                raise PreviewFailed(died.how, died.words) from None
            finally:
                timer.cancel()
                process.close()
        if event["event"] == "failed":
            raise WebUIError.from_json(event)
        return event["preview"]


def _key(
    record: ModelRecord,
    options: Mapping[str, Value],
    parameters: Mapping[str, Value],
    samples: Sequence[Sample],
    seed: int,
) -> str:
    shown = [str(record.path), fingerprint(record.path), dict(options), dict(parameters), samples_hash(samples), seed]
    return hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def _file(file: PreparedFile) -> Json:
    return {
        "name": file.file,
        "total": file.total,
        "usable": len(file.samples),
        "bad_count": file.bad_count,
        "bad": [{"row": number, "problem": dict(problem)} for number, problem in file.bad],
    }
