"""What lies in a folder of LoRAs: one record for each folder that PEFT wrote and each GGUF adapter.

Like the catalogue of models it keeps what was read until a file changes, so that listing again reads nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from modules.catalog.catalog import natural, nicknames
from modules.catalog.scan_cache import ReadCache, Reading
from modules.core.errors import DamagedModel, IncompleteModel, ModelProblem, UnsupportedModel
from modules.core.lora_errors import LoraNotFound
from modules.lora.adapter_files import Adapter, AdapterConfig, Pair, read_config, read_gguf, read_peft, tensor_name
from modules.options.option import nearest
from modules.system.bounded_reader import readable
from modules.system.directory_walk import Files, walk

CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"

# Kept in memory alone: the tables of large adapters are quicker read again than revived from JSON.
_CONFIG: Reading[AdapterConfig] = Reading("adapter_config", read_config, dict, read_config)
_PEFT: Reading[Adapter] = Reading("peft", read_peft, dict, read_peft)
_GGUF: Reading[Adapter] = Reading("gguf_adapter", read_gguf, dict, read_gguf)


@dataclass(frozen=True)
class LoraRecord:
    """One LoRA on disk. `kind` is "peft", a folder, or "gguf", a file; `name` is its path below the folder of LoRAs.

    `size` is in bytes, of the weights. `ranks` are all that occur, ascending. `base` is the model it was made for, as
    its files name it; `architecture` only a GGUF names. `stored` is the type of its tensors. `problem` is why it cannot
    be used at all; whether it fits a model is another question: `lora_fit`. `others` are tensors that are no A or B.
    """

    name: str
    path: Path
    kind: str
    size: int = 0
    ranks: tuple[int, ...] = ()
    alpha: float = 0.0
    targets: tuple[str, ...] = ()
    base: str = ""
    architecture: str = ""
    stored: str = ""
    problem: ModelProblem | None = None
    others: tuple[str, ...] = field(default=(), repr=False)
    pairs: tuple[Pair, ...] = field(default=(), compare=False, repr=False)
    config: AdapterConfig | None = field(default=None, compare=False, repr=False)

    @property
    def state(self) -> str:
        """ "incomplete", "damaged" or "unsupported"; "" of one that can be used."""
        return self.problem.state if self.problem else ""

    @property
    def weights(self) -> Path:
        """The file with the tensors."""
        return self.path / WEIGHTS if self.kind == "peft" else self.path


class LoraCatalog:
    """The LoRAs in `folder`, which need not exist."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))  # records are used by processes with another working directory
        self._read = ReadCache(None)

    def all(self) -> list[LoraRecord]:
        """Every LoRA, in natural order of names, the broken ones with their `problem`."""
        folders = list(walk(self.folder))
        records = [record for folder, files in folders for record in self._records(folder, files)]
        self._read.keep({path for _, files in folders for path in files})
        return sorted(records, key=lambda each: natural(each.name))

    def find(self, name: str) -> LoraRecord:
        """The LoRA called `name`: by its whole name or, if only one is meant, without its folder or `.gguf`.

        LoraNotFound if there is none.
        """
        listed = self.all()
        meant = [each for each in listed if each.name == name] or [
            each for each in listed if name in nicknames(each.name)
        ]
        if len(meant) != 1:
            raise LoraNotFound(name, meant[0].name if meant else nearest(name, [each.name for each in listed]))
        return meant[0]

    def _records(self, folder: Path, files: Files) -> Iterator[LoraRecord]:
        for path in files:
            if path.suffix.lower() == ".gguf":
                yield self._gguf(path, files)
        present = [name for name in (CONFIG, WEIGHTS, PICKLE) if folder / name in files]
        if not present:
            return
        if folder == self.folder:
            yield LoraRecord(present[0], folder / present[0], "peft", problem=_loose(present[0]))
        else:
            yield self._peft(folder, files)

    def _gguf(self, path: Path, files: Files) -> LoraRecord:
        record = LoraRecord(self._name(path), path, "gguf", files[path].st_size)
        found = self._read.get(path, files[path], _GGUF)
        if isinstance(found, ModelProblem):
            return replace(record, problem=found)
        header = found.header
        return replace(
            _described(record, found),
            targets=tuple(sorted({each.module.removesuffix(".weight").rpartition(".")[2] for each in found.pairs})),
            alpha=header.alpha if header else 0.0,
            base=readable(header.base) if header else "",
            architecture=readable(header.architecture) if header else "",
        )

    def _peft(self, folder: Path, files: Files) -> LoraRecord:
        record = LoraRecord(self._name(folder), folder, "peft")
        for name in (CONFIG, WEIGHTS):
            if folder / name not in files:
                present = WEIGHTS if folder / WEIGHTS in files else PICKLE
                size = files[folder / present].st_size if folder / present in files else 0
                pickled = name == WEIGHTS and folder / PICKLE in files
                return replace(record, size=size, problem=_pickle() if pickled else _lacking(folder, name))
        config = self._read.get(folder / CONFIG, files[folder / CONFIG], _CONFIG)
        found = self._read.get(folder / WEIGHTS, files[folder / WEIGHTS], _PEFT)
        record = replace(record, size=files[folder / WEIGHTS].st_size)
        if isinstance(config, AdapterConfig):
            record = replace(record, config=config, alpha=config.alpha, targets=config.targets, base=config.base)
        problem = next((each for each in (config, found) if isinstance(each, ModelProblem)), None)
        if isinstance(found, Adapter):
            record = _described(record, found)
            problem = problem or _contradiction(record)
        return replace(record, problem=problem)

    def _name(self, path: Path) -> str:
        return readable(path.relative_to(self.folder).as_posix())


def _described(record: LoraRecord, found: Adapter) -> LoraRecord:
    ranks = tuple(sorted({each.rank for each in found.pairs}))
    return replace(record, ranks=ranks, stored=found.stored, pairs=found.pairs, others=found.others)


def _contradiction(record: LoraRecord) -> ModelProblem | None:
    """Whether adapter_config.json speaks of another rank than the tensors show: the scale would be wrong."""
    for pair in record.pairs if record.config else ():
        said = record.config.rank_of(pair.module) if record.config else 0
        if said != pair.rank:
            problem = {
                "en": f"{CONFIG} says rank {said}, but the tensor {tensor_name(pair.a)} has rank {pair.rank}. "
                "One of the two files is of another LoRA: download both again.",
                "zh": f"{CONFIG} 中的秩为 {said}，而张量 {tensor_name(pair.a)} 的秩为 {pair.rank}。"
                "两个文件不属于同一个 LoRA，请一并重新下载。",
            }
            return DamagedModel(readable(record.path.name), problem)
    return None


def _lacking(folder: Path, name: str) -> IncompleteModel:
    problem = {
        "en": f"{name} is missing. Download it from where the other files came from.",
        "zh": f"缺少 {name}。请从其他文件的来源处下载。",
    }
    return IncompleteModel(readable(folder.name), problem)


def _pickle() -> UnsupportedModel:
    problem = {
        "en": f"this is a pickle, which is a program and is not opened here. Get the LoRA as {WEIGHTS}, or, if you "
        "trust it, load it with PEFT elsewhere and save it: save_pretrained writes that file.",
        "zh": f"这是 pickle 文件，它可以携带程序，此处不会打开。请改用 {WEIGHTS}；若信任该文件，"
        "可在别处用 PEFT 加载后再保存：save_pretrained 会写出该格式。",
    }
    return UnsupportedModel(PICKLE, problem)


def _loose(name: str) -> UnsupportedModel:
    problem = {
        "en": f"a LoRA needs a folder of its own. Put {CONFIG} and {WEIGHTS} into one.",
        "zh": f"每个 LoRA 需要单独的文件夹。请将 {CONFIG} 和 {WEIGHTS} 放入其中。",
    }
    return UnsupportedModel(name, problem)
