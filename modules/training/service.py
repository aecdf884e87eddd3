"""Start training runs from parameters: find the model, prepare the data, and check that both can be trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.config.named_files import is_valid_name
from modules.core.errors import OptionError, Unsupported, Words
from modules.core.training_errors import CannotTrain, NoRoomToTrain, TrainingDiskFull
from modules.downloads.disk import free_space
from modules.engines.training.arguments import load_options
from modules.loaders.availability import unavailable
from modules.lora.catalog import LoraRecord
from modules.lora.compatibility import check_fit
from modules.lora.manager import LoraManager
from modules.lora.support import check_support
from modules.options.option import Value
from modules.planning.load_request import LoadRequest
from modules.planning.memory_budget import MemoryBudget
from modules.planning.planner import Planner
from modules.runtime.load_plan import LoadPlan
from modules.training.dataset.prepare import Prepared, TrainingData
from modules.training.export import NAME, gguf_adapter, merged_model
from modules.training.memory import TrainingMemory, estimate, longest_row
from modules.training.parameters import parse_parameters
from modules.training.runs import RunRequest, TrainingRuns
from modules.training.start import training_loader

_CHECKPOINTS = 4
"""Checkpoints, and a finished adapter, that may be on the disk together; each has an adapter and its optimizer."""
_NO_PATIENCE: Words = {
    "en": "0, because there are no rows for evaluation: choose an evaluation dataset, or a share",
    "zh": " 0，因为没有评估数据：请选择评估数据集，或设置评估比例",
}


@dataclass(frozen=True)
class PlannedRun:
    """A run that could start: its parameters, the base model, how it is loaded, and the estimated memory."""

    parameters: Mapping[str, Value]
    record: ModelRecord
    options: Mapping[str, Value]
    memory: TrainingMemory | None


class Training:
    """Training for the page, the API and the command line. `runs` are all runs, `data` the datasets."""

    def __init__(
        self,
        runs: TrainingRuns,
        data: TrainingData,
        record: Callable[[str], ModelRecord],
        planner: Planner,
        loras: LoraManager,
        memory: MemoryBudget,
        models_folder: Path,
    ) -> None:
        self.runs, self.data, self._models_folder = runs, data, models_folder
        self._record, self._planner, self._loras, self._memory = record, planner, loras, memory

    def plan(self, raw: Mapping[str, object]) -> PlannedRun:
        """Check parameters and the base model; nothing is read of the data.

        Raises OptionError, UnknownOption, ModelNotFound, the model's own problem, CannotTrain or LoaderUnavailable.
        """
        parameters = parse_parameters(raw)
        if not is_valid_name(str(parameters["lora_name"])):
            raise OptionError("lora_name", str(parameters["lora_name"])[:80], NAME)
        if not parameters["model"]:
            raise OptionError("model", "", {"en": "the name of a model", "zh": "模型名称"})
        record = self._record(str(parameters["model"]))
        plan = self._load_plan(record)
        load_options(parameters, plan.options, record.shape.method if record.shape else "")  # raises Unsupported
        memory = estimate(record.shape, plan.options, parameters, self._memory) if record.shape else None
        return PlannedRun(parameters, record, plan.options, memory)

    def _load_plan(self, record: ModelRecord) -> LoadPlan:
        loader = training_loader()
        if record.problem is not None:
            raise record.problem
        if not loader.supports(record) or record.task:
            raise CannotTrain(record.name, _unsuitable(record))
        if (reason := unavailable(loader, record.format)) is not None:
            raise reason
        return self._planner.plan(LoadRequest(record, loader.name))

    def prepare(self, planned: PlannedRun) -> Prepared:
        """Return the data of a run.

        Raises what `TrainingData.prepare` does, BadRows, NothingToTrain, and OptionError for a patience without rows.
        """
        template = self.data.template_of(planned.record, str(planned.parameters["instruction_template"]))
        prepared = self.data.prepare(planned.parameters, template)
        prepared.require_usable(bool(planned.parameters["skip_bad_rows"]))
        if (patience := planned.parameters["early_stopping_patience"]) and not prepared.evaluation:
            raise OptionError("early_stopping_patience", patience, _NO_PATIENCE)
        return prepared

    def start(self, raw: Mapping[str, object], continues: str = "") -> str:
        """Make a run, queue it and return its name. `continues` is a LoRA whose weights it starts from.

        Raises what `plan` and `prepare` raise, NoRoomToTrain, LoraNotFound, LoraMismatch, LoraInexpressible,
        AdapterExists and TrainingDiskFull.
        """
        lora = self._loras.catalog.find(continues) if continues else None
        planned = self.plan({**raw, **(_shape_of(lora) if lora else {})})
        if lora is not None:
            check_fit(lora, planned.record)
            check_support(lora, training_loader())
        prepared = self.prepare(planned)
        self.check_room(planned, prepared)
        parameters = planned.parameters
        prompt = {**prepared.prompt, "notes": [note["en"] for note in prepared.notes]}
        request = RunRequest(
            record=planned.record,
            options=planned.options,
            parameters=parameters,
            train=prepared.training,
            validation=prepared.evaluation,
            prompt=prompt,
            continues=(lora.name, Path(lora.path)) if lora else None,
        )
        return self.runs.start(request)

    def memory_of(self, planned: PlannedRun, prepared: Prepared) -> TrainingMemory | None:
        """Estimate the memory of a run by its longest row; None if it cannot be estimated."""
        if planned.record.shape is None:
            return None
        samples = (*prepared.training, *prepared.evaluation)
        longest = longest_row(samples, int(planned.parameters["cutoff_len"]))
        return estimate(planned.record.shape, planned.options, planned.parameters, self._memory, longest)

    def check_room(self, planned: PlannedRun, prepared: Prepared | None = None) -> None:
        """Raise NoRoomToTrain if the run does not fit beside the models in memory, or not at all.

        Raises TrainingDiskFull if its checkpoints do not fit on the disk.
        """
        memory = self.memory_of(planned, prepared) if prepared is not None else planned.memory
        if memory is not None and _CHECKPOINTS * memory.adapter > (space := free_space(self.runs.folder)):
            raise TrainingDiskFull(str(self.runs.folder), space)
        free = self._memory.available_memory()
        cards = [] if planned.parameters["cpu"] else self._memory.cards(training_loader())
        free = max((card.free for card in cards), default=free)
        if memory is None or not free:
            return
        names = ", ".join(holding.name for holding in self._memory.holdings)
        certain = memory.base + memory.adapter
        if (memory.total if names else certain) > free:
            raise NoRoomToTrain(memory.total, free, names)

    def export_gguf(self, lora: str, model: str) -> Path:
        """Return the path of a LoRA as a GGUF adapter for a GGUF model. Raises what `gguf_adapter` raises."""
        return gguf_adapter(self._loras.catalog.find(lora), self._record(model))

    def export_merged(
        self, lora: str, model: str, name: str, advance: Callable[[float], None] = lambda done: None
    ) -> Path:
        """Merge a LoRA into a copy of `model`, a new folder called `name` beside it, and return that folder.

        It takes minutes; `advance` gets the share of the weights that is loaded. Raises OptionError for an invalid
        name, and what `merged_model` raises.
        """
        if not is_valid_name(name):  # the target must be directly in the folder of models
            raise OptionError("name", name[:80], NAME)
        record = self._record(model)
        plan = self._load_plan(record)
        target = self._models_folder / name
        merged_model(self._loras.catalog.find(lora), record, plan.options, target, self.runs.folder, advance)
        return target


def _shape_of(lora: LoraRecord) -> dict[str, object]:
    """Return the parameters that a run which continues a LoRA takes over from it."""
    if lora.problem is not None:
        raise lora.problem
    if lora.config is None:
        raise Unsupported(
            {
                "en": f"{lora.name} is a GGUF file, which cannot be trained.",
                "zh": f"{lora.name} 是 GGUF 文件，无法训练。",
            }
        )
    return {
        "lora_rank": lora.config.rank,
        "lora_alpha": max(round(lora.config.alpha), 1),
        "use_rslora": lora.config.rank_stabilized,
        "use_dora": "use_dora" in lora.config.features,
        "init_lora_weights": "default",
    }


def _unsuitable(record: ModelRecord) -> Words:
    loader = training_loader()
    if record.task:
        return {"en": "it does not generate text.", "zh": "它不生成文本。"}
    if record.format == "gguf":
        return {
            "en": "a GGUF file cannot be trained. Use the folder of the original model, which has .safetensors files; "
            "the LoRA can then be used with the GGUF file.",
            "zh": "GGUF 文件无法训练。请使用原始模型文件夹（含 .safetensors 文件），训练出的 LoRA 可用于此 GGUF 文件。",
        }
    formats = ", ".join(loader.formats)
    return {
        "en": f"{loader.name} trains models in the formats {formats}; this one is {record.format}.",
        "zh": f"{loader.name} 可训练 {formats} 格式的模型，而此模型为 {record.format}。",
    }
