"""Before a run starts or goes on: what the training process is told, and whether that is still the same."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.errors import ModelProblem, Words
from modules.core.events import Json
from modules.core.training_errors import NotResumable, TrainingDiskFull, TrainingError, TrainingFailed
from modules.engines.training.job import CHECKPOINTS, JOB, TrainingJob, newest_checkpoint
from modules.formats.json_file import read_json
from modules.formats.tokenizer_files import VOCABULARIES
from modules.loaders.availability import overlay_of
from modules.loaders.registry import LOADERS, Loader
from modules.system.atomic_write import replace_file
from modules.training.run import DISCARDED, TRAIN, VALIDATION, RunFacts, RunView

PROMPT = "prompt.json"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_CONFIG = "config.json"


def training_loader() -> Loader:
    """Return the loader whose models can be trained."""
    return next(loader for loader in LOADERS.values() if "train" in loader.abilities)


def overlay_for(model_format: str) -> Path | None:
    """Return the folder of packages that the training process needs for models of a format."""
    overlay = overlay_of(training_loader(), model_format)
    return overlay.folder if overlay is not None else None


def fingerprint(model: Path) -> str:
    """Return what differs once the files of a model have changed.

    Those are its config.json and its vocabulary, and names and sizes of weights.
    """
    digest = hashlib.sha256()
    try:
        for name in (_CONFIG, *VOCABULARIES):
            path = model / name
            digest.update(path.read_bytes() if name == _CONFIG or path.is_file() else b"")
        for path in sorted(model.glob("*.safetensors")) + sorted(model.glob("*.bin")):
            digest.update(f"{path.name}:{path.stat().st_size}\n".encode())
    except OSError:
        return ""
    return digest.hexdigest()


def write_job(folder: Path, facts: RunFacts, adapter: Path | None, prompt: Mapping[str, Json]) -> None:
    """Write what the training process reads, and how the rows became text."""
    validation = folder / VALIDATION
    job = TrainingJob(
        folder=folder,
        base=Path(facts.path),
        name=facts.model,
        options=facts.options,
        parameters=facts.parameters,
        train=folder / TRAIN,
        validation=validation if validation.is_file() else None,
        adapter=adapter,
    )
    replace_file(folder / JOB, json.dumps(job.to_json(), ensure_ascii=False, indent=1).encode())
    replace_file(folder / PROMPT, json.dumps(dict(prompt), ensure_ascii=False, indent=1).encode())


def check_resumable(folder: Path, view: RunView) -> None:
    """Raise NotResumable for a run that is over, or if the base model, the data or the rank have changed."""
    facts = view.run
    if view.state in _OVER:
        raise NotResumable(facts.name, _OVER[view.state])
    check_base(facts)
    if fingerprint(Path(facts.path)) != facts.base:
        raise NotResumable(facts.name, _changed("the base model", "基础模型"))
    try:
        data = hashlib.sha256((folder / TRAIN).read_bytes()).hexdigest()
    except OSError:
        data = ""
    if data != facts.data:
        raise NotResumable(facts.name, _changed("the data of the run", "训练数据"))
    checkpoint = newest_checkpoint(folder / CHECKPOINTS)
    if checkpoint is not None and _rank(checkpoint) not in (facts.parameters["lora_rank"], None):
        raise NotResumable(facts.name, _changed("the rank", "秩"))


def check_base(facts: RunFacts) -> None:
    """Raise NotResumable if the base model has been deleted."""
    if not Path(facts.path).is_dir():
        raise NotResumable(facts.name, _gone(facts.path))


_OVER: Mapping[str, Words] = {
    "finished": {
        "en": "it has finished. Start another run that continues its LoRA.",
        "zh": "它已完成。可新建训练以续训其 LoRA。",
    },
    DISCARDED: {"en": "its checkpoints have been deleted.", "zh": "其检查点已被删除。"},
}


def _rank(checkpoint: Path) -> Json:
    try:
        return read_json(checkpoint / "adapter_config.json").get("r")
    except (OSError, ModelProblem):
        return 0


def _changed(en: str, zh: str) -> Words:
    return {"en": f"{en} has changed since. Start a new run.", "zh": f"{zh}已改变，请新建训练。"}


def _gone(path: str) -> Words:
    return {"en": f"its base model {path} no longer exists.", "zh": f"基础模型 {path} 已不存在。"}


def disk_problem(folder: Path, error: OSError) -> TrainingError:
    """Translate an error of the disk."""
    if error.errno in _NO_SPACE:
        space = os.statvfs(folder)
        return TrainingDiskFull(str(folder), space.f_bavail * space.f_frsize)
    return TrainingFailed(f"{error.strerror or type(error).__name__}: {error.filename or folder}")


@contextlib.contextmanager
def disk_problems(folder: Path) -> Iterator[None]:
    """Raise TrainingDiskFull or TrainingFailed for errors of the disk that has `folder`."""
    try:
        yield
    except OSError as error:
        raise disk_problem(folder, error) from error
