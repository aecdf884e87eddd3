"""Errors of training runs: they do not start, stop, or cannot be resumed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from modules.core.errors import NameTaken, UnknownName, WebUIError, Words, both
from modules.core.worker_errors import WorkerDied


class TrainingError(WebUIError):
    status = 422


class TrainingRunNotFound(UnknownName, TrainingError):
    status = 404
    template = {"en": "There is no training run {name!r}.", "zh": "没有名为{name!r}的训练。"}


@dataclass(eq=False)
class RunBusy(TrainingError):
    """A run that is queued or running, asked for what only an ended one can do."""

    status = 409
    template = {
        "en": "The training run {name} has not ended. Stop it first.",
        "zh": "训练 {name} 尚未结束，请先停止。",
    }
    name: str


@dataclass(eq=False)
class NotResumable(TrainingError):
    """A run that cannot go on from where it stopped, and why."""

    status = 409
    template = {
        "en": "The training run {name} cannot be resumed: {why}",
        "zh": "训练 {name} 无法继续：{why}",
    }
    name: str
    why: Words


@dataclass(eq=False)
class CannotTrain(TrainingError):
    """A model for which no LoRA can be trained; `why` also says for which one can, if that is known."""

    template = {
        "en": "No LoRA can be trained for {model}: {why}",
        "zh": "无法为 {model} 训练 LoRA：{why}",
    }
    model: str
    why: Words


@dataclass(eq=False)
class NoRoomToTrain(TrainingError):
    """A run that does not fit beside the `models` in memory; `needed` and `free` are bytes."""

    status = 507
    template = {
        "en": "Training needs about {needed}, and {free} are free. Unload {models} first.",
        "zh": "训练约需 {needed}，目前可用 {free}。请先卸载 {models}。",
    }
    alone: ClassVar[Words] = {
        "en": "Training needs about {needed}, and {free} are free. Use a micro batch of 1, a shorter cutoff length, or "
        "4-bit base weights.",
        "zh": "训练约需 {needed}，目前可用 {free}。请将微批量设为 1、调小截断长度，或使用 4 位基础权重。",
    }
    needed: int
    free: int
    models: str = ""

    def shown(self, language: str) -> dict[str, object]:
        return super().shown(language) | {key: _gigabytes(getattr(self, key)) for key in ("needed", "free")}

    def say(self, language: str) -> str:
        return super().say(language) if self.models else self.alone[language].format(**self.shown(language))


@dataclass(eq=False)
class NoGradient(TrainingError):
    """Adapters that got no gradient at the first update; `layers` names some of them."""

    template = {
        "en": "{missing} of {count} adapters got no gradient at the first update, so they would learn nothing: "
        "{layers}. Choose fewer target modules.",
        "zh": "首次更新时，{count} 个适配器中有 {missing} 个没有梯度，无法学到任何内容：{layers}。请减少目标模块。",
    }
    layers: str
    missing: int
    count: int


@dataclass(eq=False)
class NoEvaStart(TrainingError):
    """An adapter whose `rank` is above `most`, the tokens of the data or the inputs of a layer: EVA has no start."""

    template = {
        "en": "The initial weights “eva” cannot have a rank of {rank}: the data, or a layer of the model, has "
        "{most} directions at most. Choose a lower rank, more data, or “default”.",
        "zh": "秩为 {rank} 时无法使用初始权重 eva：数据或模型的某一层最多只有 {most} 个方向。"
        "请调低秩、增加数据，或选择 default。",
    }
    rank: int
    most: int


@dataclass(eq=False)
class NoRowLeft(TrainingError):
    """Data of which no row is left: `dropped` were longer than `cutoff` tokens, of `untrained` no token is trained."""

    template = {
        "en": "No row is left to train: {dropped} are longer than {cutoff} tokens, and {untrained} have no token to "
        "train. Raise the cutoff length, truncate, or change what is trained.",
        "zh": "没有可训练的数据行：{dropped} 行超过 {cutoff} 个词符，{untrained} 行没有要训练的词符。"
        "请调大截断长度、改为截断，或更改训练内容。",
    }
    dropped: int
    untrained: int
    cutoff: int


@dataclass(eq=False)
class NotFinite(TrainingError):
    """A loss or gradient that is no finite number, and the numbers of the rows of that update."""

    template = {
        "en": "The {quantity} became {value} at update {update} (rows {rows}). Lower the learning rate, check these "
        "rows, or use float32 or bfloat16. The last checkpoint is kept.",
        "zh": "第 {update} 次更新时{quantity}变为 {value}（数据行 {rows}）。请调低学习率、检查这些行，"
        "或使用 float32 或 bfloat16。上一个检查点已保留。",
    }
    quantity: Words
    value: str
    update: int
    rows: str


@dataclass(eq=False)
class TrainingOutOfMemory(TrainingError):
    status = 507
    template = {
        "en": "Training ran out of memory with a micro batch of {micro} and {tokens} tokens per row ({words}). Use a "
        "smaller micro batch, a shorter cutoff length, gradient checkpointing or 4-bit base weights, then start again.",
        "zh": "微批量为 {micro}、每行 {tokens} 个词符时内存不足（{words}）。请减小微批量、调小截断长度、"
        "启用梯度检查点或使用 4 位基础权重，然后重新开始。",
    }
    micro: int
    tokens: int
    words: str


@dataclass(eq=False)
class TrainingDiskFull(TrainingError):
    status = 507
    template = {
        "en": "The disk is full: {free} are free in {folder}. Free some space, then resume the run.",
        "zh": "磁盘已满：{folder} 仅剩 {free}。请清理空间，然后继续训练。",
    }
    folder: str
    free: int

    def shown(self, language: str) -> dict[str, object]:
        return super().shown(language) | {"free": _gigabytes(self.free)}


@dataclass(eq=False)
class TrainingFailed(TrainingError):
    """A run that failed for a reason of its backend. `words` is its message, `cause` what lies behind it, if known."""

    status = 500
    template = {"en": "Training failed: {words}", "zh": "训练失败：{words}"}
    words: str
    cause: Words = field(default_factory=lambda: both(""))

    def shown(self, language: str) -> dict[str, object]:
        return {"words": "\n".join(filter(None, [self.cause[language], self.words]))}


@dataclass(eq=False)
class TrainerDied(TrainingError):
    """The end of the training process. `how` is its signal or exit status, `words` the end of its stderr."""

    status = 500
    template = {
        "en": "The training process ended unexpectedly ({how}).{cause} The run can be resumed.{tail}",
        "zh": "训练进程意外结束（{how}）。{cause}可以继续训练。{tail}",
    }
    killed: ClassVar[Words] = WorkerDied.killed
    tail: ClassVar[Words] = WorkerDied.tail
    how: str
    words: str = ""

    def shown(self, language: str) -> dict[str, object]:
        tail = self.tail[language].format(words=self.words) if self.words else ""
        cause = self.killed[language] if self.how == "SIGKILL" else ""
        return super().shown(language) | {"cause": cause, "tail": tail}


@dataclass(eq=False)
class AdapterUnchanged(TrainingError):
    template = {
        "en": "The trained LoRA has no effect: it changes no logit of a test prompt. Train for more updates, or with a "
        "higher learning rate.",
        "zh": "训练出的 LoRA 不起作用：测试提示词的 logits 没有任何变化。请增加更新次数或调高学习率。",
    }


@dataclass(eq=False)
class AdapterExists(NameTaken, TrainingError):
    status = 409
    template = {
        "en": "There is already a LoRA {name!r}. Choose another name, or turn on “Override Existing Files”.",
        "zh": "已有名为{name!r}的 LoRA。请换一个名称，或勾选“覆盖现有文件”。",
    }


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
