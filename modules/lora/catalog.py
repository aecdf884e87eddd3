"""List the LoRAs in a folder: folders written by PEFT, and GGUF adapters.

What was read of a file is kept until the file changes, so that listing again reads nothing.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from modules.catalog.background_scan import FIND_SECONDS, BackgroundScan
from modules.catalog.record import natural_key, short_names
from modules.catalog.scan_cache import FileReader, ScanCache
from modules.core.errors import DamagedModel, IncompleteModel, ModelProblem, UnsupportedModel, Words
from modules.core.lora_errors import LoraNotFound
from modules.lora.adapter_files import (
    MADE_BY_MLX,
    Adapter,
    AdapterConfig,
    Pair,
    read_config,
    read_gguf,
    read_peft,
    tensor_name,
)
from modules.options.option import nearest
from modules.system.directory_walk import Files, walk_folders
from modules.system.format_errors import printable
from modules.system.leftovers import sweep

CONVERTED = ".converted"
"""The folder beside a LoRA of PEFT with its conversions to GGUF."""
CONFIG, WEIGHTS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
_MLX_WEIGHTS = ("adapters.safetensors", "adapters.npz")
_OTHER_WEIGHTS = (*_MLX_WEIGHTS, "pytorch_lora_weights.safetensors")
"""Names of the weights of LoRAs that other programs write."""

# Kept in memory only: tables of large adapters are faster to read again than to restore from JSON.
_CONFIG: FileReader[AdapterConfig] = FileReader("adapter_config", read_config, dict, read_config)
_PEFT: FileReader[Adapter] = FileReader("peft", read_peft, dict, read_peft)
_GGUF: FileReader[Adapter] = FileReader("gguf_adapter", read_gguf, dict, read_gguf)


@dataclass(frozen=True)
class LoraRecord:
    """One LoRA on disk: a folder (`kind` "peft") or a file ("gguf"). `name` is its path below the folder of LoRAs.

    `size` is that of the weights, in bytes. `ranks` are all that occur, ascending. `base` is the model it was trained
    for, as its files name it; only a GGUF names an `architecture`. `stored` is the type of its tensors. `problem` is
    why it cannot be used with any model (`compatibility` checks one model). `others` are tensors that are not A or B.
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
        """ "incomplete", "damaged" or "unsupported"; empty if the LoRA can be used."""
        return self.problem.state if self.problem else ""

    @property
    def weights(self) -> Path:
        """The file that holds the tensors."""
        return self.path / WEIGHTS if self.kind == "peft" else self.path


class LoraCatalog:
    """The LoRAs in `folder`, which need not exist. Any thread may call."""

    def __init__(self, folder: Path) -> None:
        self.folder = Path(os.path.abspath(folder))  # workers have another working directory
        self._read = ScanCache(None)
        self._scan = BackgroundScan(self._find_records, self._complete)

    def all(self, seconds: float | None = None) -> list[LoraRecord]:
        """Return all LoRAs in natural order of their names; those that cannot be used have a `problem`.

        After `seconds`, return those known so far; the scan goes on in the background.
        """
        return sorted(self._scan.items(seconds), key=lambda record: natural_key(record.name))

    def sweep(self) -> None:
        """Delete what interrupted conversions to GGUF have left beside the LoRAs."""
        for record in self.all():
            folder = record.path / CONVERTED
            if record.kind == "peft" and folder.is_dir():
                sweep(folder, {path.name[1:].partition(".gguf.")[0] + ".gguf" for path in folder.glob(".*.part")})

    def _find_records(self) -> Iterator[LoraRecord]:
        for folder, files in walk_folders(self.folder):
            yield from self._records(folder, files)

    def _complete(self, records: list[LoraRecord]) -> list[LoraRecord]:
        self._read.forget_unused()
        return records

    def find(self, name: str) -> LoraRecord:
        """Find a LoRA by its whole name or, if that is unambiguous, without its folder or `.gguf`.

        Raises LoraNotFound.
        """
        records = self.all(FIND_SECONDS)
        exact = [record for record in records if record.name == name]
        matching = exact or [record for record in records if name in short_names(record.name)]
        if len(matching) != 1:
            suggestion = matching[0].name if matching else nearest(name, [record.name for record in records])
            raise LoraNotFound(name, suggestion)
        return matching[0]

    def _records(self, folder: Path, files: Files) -> Iterator[LoraRecord]:
        for path in files:
            if path.suffix.lower() == ".gguf":
                yield self._gguf(path, files)
        present = [name for name in (CONFIG, WEIGHTS, PICKLE, *_OTHER_WEIGHTS) if folder / name in files]
        if not present:
            return
        if folder == self.folder:
            yield LoraRecord(present[0], folder / present[0], "peft", problem=_loose(present[0]))
        else:
            yield self._peft(folder, files)

    def _gguf(self, path: Path, files: Files) -> LoraRecord:
        record = LoraRecord(self._name(path), path, "gguf", files[path].st_size)
        adapter = self._read.get(path, files[path], _GGUF)
        if isinstance(adapter, ModelProblem):
            return replace(record, problem=adapter)
        header = adapter.header
        return replace(
            _described(record, adapter),
            targets=tuple(sorted({pair.module.removesuffix(".weight").rpartition(".")[2] for pair in adapter.pairs})),
            alpha=header.alpha if header else 0.0,
            base=printable(header.base) if header else "",
            architecture=printable(header.architecture) if header else "",
        )

    def _peft(self, folder: Path, files: Files) -> LoraRecord:
        record = LoraRecord(self._name(folder), folder, "peft")
        if folder / WEIGHTS not in files and (foreign := [name for name in _OTHER_WEIGHTS if folder / name in files]):
            return replace(record, size=files[folder / foreign[0]].st_size, problem=_foreign(folder, foreign[0]))
        for name in (CONFIG, WEIGHTS):
            if folder / name not in files:
                present = WEIGHTS if folder / WEIGHTS in files else PICKLE
                size = files[folder / present].st_size if folder / present in files else 0
                pickled = name == WEIGHTS and folder / PICKLE in files
                absent = _pickle() if pickled else _missing(folder, name)
                return replace(record, size=size, problem=self._unsupported(folder, files) or absent)
        config = self._read.get(folder / CONFIG, files[folder / CONFIG], _CONFIG)
        adapter = self._read.get(folder / WEIGHTS, files[folder / WEIGHTS], _PEFT)
        record = replace(record, size=files[folder / WEIGHTS].st_size)
        if isinstance(config, AdapterConfig):
            record = replace(record, config=config, alpha=config.alpha, targets=config.targets, base=config.base)
        problem = next((result for result in (config, adapter) if isinstance(result, ModelProblem)), None)
        if isinstance(adapter, Adapter):
            record = _described(record, adapter)
            problem = problem or _contradiction(record)
        return replace(record, problem=problem)

    def _unsupported(self, folder: Path, files: Files) -> UnsupportedModel | None:
        """Return the problem that no further file would solve."""
        config = self._read.get(folder / CONFIG, files[folder / CONFIG], _CONFIG) if folder / CONFIG in files else None
        return config if isinstance(config, UnsupportedModel) else None

    def _name(self, path: Path) -> str:
        return printable(path.relative_to(self.folder).as_posix())


def _described(record: LoraRecord, adapter: Adapter) -> LoraRecord:
    ranks = tuple(sorted({pair.rank for pair in adapter.pairs}))
    return replace(record, ranks=ranks, stored=adapter.stored, pairs=adapter.pairs, others=adapter.others)


def _contradiction(record: LoraRecord) -> ModelProblem | None:
    """Return a problem if adapter_config.json has another rank than the tensors: the scale would be wrong."""
    for pair in record.pairs if record.config else ():
        rank = record.config.rank_of(pair.module) if record.config else 0
        if rank != pair.rank:
            problem = {
                "en": f"the rank is {rank} in {CONFIG}, but {pair.rank} in the tensor {tensor_name(pair.a)}. "
                "The two files belong to different LoRAs: download both again.",
                "zh": f"{CONFIG} 中的秩为 {rank}，而张量{tensor_name(pair.a, 'zh')}的秩为 {pair.rank}。"
                "两个文件不属于同一个 LoRA，请一并重新下载。",
            }
            return DamagedModel(printable(record.path.name), problem)
    return None


def _missing(folder: Path, name: str) -> IncompleteModel:
    problem = {
        "en": f"{name} is missing. Download it from the source of the other files.",
        "zh": f"缺少 {name}，请从其他文件的来源下载。",
    }
    return IncompleteModel(printable(folder.name), problem)


def _foreign(folder: Path, name: str) -> UnsupportedModel:
    return UnsupportedModel(printable(folder.name), MADE_BY_MLX if name in _MLX_WEIGHTS else _FOR_IMAGES)


_FOR_IMAGES: Words = {
    "en": "this LoRA is for a model that generates images. Use it with a program such as ComfyUI.",
    "zh": "此 LoRA 用于生成图像的模型。请在 ComfyUI 等程序中使用。",
}


def _pickle() -> UnsupportedModel:
    problem = {
        "en": f"a pickle can run code, so it is not opened. Get the LoRA as {WEIGHTS}, or, if you "
        "trust it, load it with PEFT elsewhere and save it: save_pretrained writes that file.",
        "zh": f"pickle 文件可能携带代码，因此不会打开。请改用 {WEIGHTS}；若信任该文件，"
        "可在别处用 PEFT 加载后再保存：save_pretrained 会写出该格式。",
    }
    return UnsupportedModel(PICKLE, problem)


def _loose(name: str) -> UnsupportedModel:
    problem = {
        "en": f"a LoRA needs a folder of its own. Move {CONFIG} and {WEIGHTS} into one.",
        "zh": f"每个 LoRA 需要单独的文件夹，请将 {CONFIG} 和 {WEIGHTS} 放入其中。",
    }
    return UnsupportedModel(name, problem)
