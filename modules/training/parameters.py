"""The parameters of a training run: the form, RUN.yaml of `--train`, and training_parameters.json derive from them.

Keys and labels are those of the original web UI where it has the parameter. Steps are updates of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping

from modules.core.errors import OptionError
from modules.options.load_shared import LONGEST_CONTEXT
from modules.options.option import Option, Value, parse_all

GROUPS = ("data", "raw", "base", "lora", "schedule", "advanced")
"""Sections of the form, in this order."""

AUTOMATIC = -1
"""The value of `warmup_steps` that stands for a tenth of the updates, at most 100."""

MOST_RANK = 1024

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""Modules that can be chosen one by one: those of Llama and its relatives."""


def _target(module: str) -> Option:
    return Option(
        f"{module}_en",
        f"{module}_en",
        False,
        {"en": f"Enable {module}", "zh": f"启用 {module}"},
        {"en": f"Train the modules called {module}.", "zh": f"训练名为 {module} 的模块。"},
        group="lora",
    )


_DATA = (
    Option(
        "dataset",
        "dataset",
        "",
        {"en": "Dataset", "zh": "数据集"},
        {
            "en": "File in training/datasets: JSON, JSON lines, CSV or text, or a folder of texts.",
            "zh": "training/datasets 中的文件（JSON、JSONL、CSV 或文本），或文本文件夹。",
        },
        group="data",
    ),
    Option(
        "format",
        "format",
        "",
        {"en": "Data Format", "zh": "数据格式"},
        {
            "en": "How rows become text: a file in training/formats. Empty = by the columns of the data.",
            "zh": "把数据行变为文本的格式（training/formats 中的文件）；留空则根据字段判断。",
        },
        group="data",
    ),
    Option(
        "instruction_template",
        "instruction_template",
        "",
        {"en": "Instruction Template", "zh": "指令模板"},
        {
            "en": "Chat template for conversations. Empty = the model's own.",
            "zh": "对话所用的聊天模板；留空则用模型自带的模板。",
        },
        group="data",
    ),
    Option(
        "train_on",
        "train_on",
        "answers",
        {"en": "Train on", "zh": "训练内容"},
        {
            "en": "answers: of the assistant alone. all: the whole text. after: what follows a text in each row.",
            "zh": "answers：仅助手的回答；all：全部文本；after：每行中指定文本之后的部分。",
        },
        choices=("answers", "all", "after"),
        group="data",
    ),
    Option(
        "train_only_after",
        "train_only_after",
        "",
        {"en": "Train Only After", "zh": "仅在此之后训练"},
        {
            "en": "With “after”: only what follows the last occurrence of this text in a row is trained.",
            "zh": "选择 after 时，只训练每行中此文本最后一次出现之后的内容。",
        },
        multiline=True,
        group="data",
    ),
    Option(
        "add_eos_token",
        "add_eos_token",
        True,
        {"en": "Add EOS token", "zh": "添加序列终止符"},
        {
            "en": "End each row with the EOS token, so that the model learns to stop. Never added twice.",
            "zh": "在每行末尾添加序列终止符，使模型学会停止；不会重复添加。",
        },
        group="data",
    ),
    Option(
        "excess_length",
        "excess_length",
        "drop",
        {"en": "Rows that are too long", "zh": "超长的行"},
        {
            "en": "drop: leave out rows longer than the cutoff length. truncate: cut off their end.",
            "zh": "超过截断长度的行：drop 为舍弃整行，truncate 为截去末尾。",
        },
        choices=("drop", "truncate"),
        group="data",
    ),
    Option(
        "skip_bad_rows",
        "skip_bad_rows",
        False,
        {"en": "Skip bad rows", "zh": "跳过有问题的行"},
        {
            "en": "Train without the rows that cannot be used; otherwise they prevent the run.",
            "zh": "跳过无法使用的行；不勾选时，存在这样的行便不会开始训练。",
        },
        group="data",
    ),
    Option(
        "eval_dataset",
        "eval_dataset",
        "",
        {"en": "Evaluation Dataset", "zh": "评估数据集"},
        {
            "en": "File in training/datasets by which the run is evaluated. Empty = none, or the share below.",
            "zh": "用于评估的数据文件；留空则不评估，或使用下面的比例。",
        },
        group="data",
    ),
    Option(
        "eval_share",
        "eval_share",
        0.0,
        {"en": "Share of rows for evaluation", "zh": "用于评估的行所占比例"},
        {
            "en": "Keep this share of the rows out of training. The same rows stay out after you add others.",
            "zh": "从训练数据中留出此比例用于评估；添加新行后，留出的仍是原来的行。",
        },
        minimum=0.0,
        maximum=0.5,
        step=0.01,
        group="data",
    ),
)

_RAW = (
    Option(
        "raw_text_file",
        "raw_text_file",
        "",
        {"en": "Text file", "zh": "文本文件"},
        {
            "en": "Text file or folder of texts in training/datasets, trained as it is.",
            "zh": "training/datasets 中的文本文件或文件夹，按原文训练。",
        },
        group="raw",
    ),
    Option(
        "overlap_len",
        "overlap_len",
        128,
        {"en": "Overlap Length", "zh": "重叠长度"},
        {
            "en": "Tokens that a window repeats of the one before it. Less than the cutoff length.",
            "zh": "每个窗口重复上一窗口末尾的词符数，须小于截断长度。",
        },
        minimum=0,
        maximum=4096,
        step=16,
        group="raw",
    ),
    Option(
        "newline_favor_len",
        "newline_favor_len",
        128,
        {"en": "Prefer Newline Cut Length", "zh": "优先换行剪切长度"},
        {
            "en": "A window may end this many tokens earlier to end at a line break. 0 = off. No text is lost.",
            "zh": "窗口可提前这么多词符结束，以便在换行处切分；0 为不启用。不会丢失文本。",
        },
        minimum=0,
        maximum=4096,
        step=16,
        group="raw",
    ),
    Option(
        "hard_cut_string",
        "hard_cut_string",
        "\\n\\n\\n",
        {"en": "Hard Cut String", "zh": "硬剪切字符串"},
        {
            "en": "Separates texts: no window goes across it. \\n is a line break. Empty = one text.",
            "zh": "文本之间的分隔符，窗口不会跨越它；\\n 表示换行，留空则视为一篇文本。",
        },
        group="raw",
    ),
    Option(
        "min_chars",
        "min_chars",
        0,
        {"en": "Ignore small blocks", "zh": "忽略小块"},
        {
            "en": "Leave out texts between hard cuts with at most this many characters.",
            "zh": "忽略硬剪切之间不超过此字符数的文本块。",
        },
        minimum=0,
        maximum=1_000_000,
        group="raw",
    ),
)

_BASE = (
    Option(
        "model",
        "model",
        "",
        {"en": "Base model", "zh": "基础模型"},
        {
            "en": "Model for which the LoRA is trained: a folder in models/.",
            "zh": "为其训练 LoRA 的模型：models/ 中的文件夹。",
        },
        group="base",
    ),
    Option(
        "base_weights",
        "base_weights",
        "auto",
        {"en": "Precision of the base", "zh": "基础模型精度"},
        {
            "en": "auto: as stored if quantized, else 16 bits on a GPU and 32 bits on a CPU.",
            "zh": "auto：量化模型保持原样；其他模型在 GPU 上用 16 位，在 CPU 上用 32 位。",
        },
        choices=("auto", "float32", "bfloat16", "float16", "8-bit", "4-bit"),
        group="base",
    ),
    Option(
        "cpu",
        "cpu",
        False,
        {"en": "CPU only", "zh": "仅用 CPU"},
        {"en": "Train on the CPU even if there is a GPU.", "zh": "即使有 GPU，也只用 CPU 训练。"},
        group="base",
    ),
)

_LORA = (
    Option(
        "lora_name",
        "lora_name",
        "",
        {"en": "Name", "zh": "名称"},
        {"en": "Name of the new LoRA: a folder in loras/.", "zh": "新 LoRA 的名称，即 loras/ 中的文件夹名。"},
        group="lora",
    ),
    Option(
        "always_override",
        "always_override",
        False,
        {"en": "Override Existing Files", "zh": "覆盖现有文件"},
        {
            "en": "Replace a LoRA of this name when the run has finished; otherwise the name is refused.",
            "zh": "训练完成后替换同名 LoRA；不勾选时拒绝使用已有的名称。",
        },
        group="lora",
    ),
    Option(
        "lora_rank",
        "lora_rank",
        32,
        {"en": "LoRA Rank", "zh": "LoRA 秩"},
        {
            "en": "Size of the adapter. 4-16 for a style, 32-128 for facts; memory grows with it.",
            "zh": "适配器的大小。学习文风用 4–16，学习事实用 32–128；越大占用内存越多。",
        },
        minimum=1,
        maximum=MOST_RANK,
        step=1,
        group="lora",
    ),
    Option(
        "lora_alpha",
        "lora_alpha",
        64,
        {"en": "LoRA Alpha", "zh": "LoRA Alpha"},
        {
            "en": "The adapter's output is multiplied by alpha ÷ rank. Usually twice the rank.",
            "zh": "适配器的输出乘以 alpha ÷ 秩，通常取秩的两倍。",
        },
        minimum=1,
        maximum=4 * MOST_RANK,
        step=1,
        group="lora",
    ),
    Option(
        "lora_dropout",
        "lora_dropout",
        0.05,
        {"en": "LoRA Dropout", "zh": "LoRA 丢弃率"},
        {
            "en": "Share of the adapter's inputs that are left out at random. Reduces overfitting.",
            "zh": "随机丢弃适配器输入的比例，可减轻过拟合。",
        },
        minimum=0.0,
        maximum=0.9,
        step=0.025,
        group="lora",
    ),
    Option(
        "all_linear",
        "all_linear",
        True,
        {"en": "All linear layers", "zh": "所有线性层"},
        {
            "en": "Train every linear layer of the blocks, whatever they are called; boxes below do not matter.",
            "zh": "训练各层中的所有线性层，不论名称；下面的选项不起作用。",
        },
        group="lora",
    ),
    *map(_target, TARGETS),
    Option(
        "use_rslora",
        "use_rslora",
        False,
        {"en": "rsLoRA", "zh": "rsLoRA"},
        {
            "en": "Multiply by alpha ÷ √rank instead of alpha ÷ rank, for high ranks.",
            "zh": "以 alpha ÷ √秩 代替 alpha ÷ 秩，适合较高的秩。",
        },
        group="lora",
    ),
    Option(
        "use_dora",
        "use_dora",
        False,
        {"en": "DoRA", "zh": "DoRA"},
        {
            "en": "Train the size of weights apart. Slower; not for GPTQ and AWQ, no GGUF.",
            "zh": "单独训练权重的幅度。较慢；不支持 GPTQ 和 AWQ，也不能转为 GGUF。",
        },
        group="lora",
    ),
    Option(
        "init_lora_weights",
        "init_lora_weights",
        "default",
        {"en": "Initial weights", "zh": "初始权重"},
        {"en": "How the adapter's weights begin; it has no effect at first.", "zh": "适配器权重的初始化方式。"},
        choices=("default", "gaussian", "orthogonal", "eva"),
        group="lora",
    ),
)

_SCHEDULE = (
    Option(
        "batch_size",
        "batch_size",
        32,
        {"en": "Batch Size", "zh": "批量大小"},
        {
            "en": "Rows for one update of the weights. Fewer give more updates; more give smoother ones.",
            "zh": "每次更新权重所用的行数。越小更新次数越多，越大更新越平稳。",
        },
        minimum=1,
        maximum=1024,
        step=1,
        group="schedule",
    ),
    Option(
        "micro_batch_size",
        "micro_batch_size",
        4,
        {"en": "Micro Batch Size", "zh": "微批量大小"},
        {
            "en": "Rows computed at once. Memory grows with it; the result stays the same.",
            "zh": "同时计算的行数。越大占用内存越多，结果不变。",
        },
        minimum=1,
        maximum=128,
        step=1,
        group="schedule",
    ),
    Option(
        "cutoff_len",
        "cutoff_len",
        512,
        {"en": "Cutoff Length", "zh": "截断长度"},
        {
            "en": "Longest row in tokens. Memory grows with it.",
            "zh": "每行的最大长度（词符数）。越大占用内存越多。",
        },
        minimum=8,
        maximum=LONGEST_CONTEXT,
        group="schedule",
    ),
    Option(
        "epochs",
        "epochs",
        3.0,
        {"en": "Epochs", "zh": "周期"},
        {"en": "How often all rows are trained.", "zh": "全部数据训练的遍数。"},
        minimum=0.01,
        maximum=10_000.0,
        group="schedule",
    ),
    Option(
        "learning_rate",
        "learning_rate",
        3e-4,
        {"en": "Learning Rate", "zh": "学习率"},
        {
            "en": "Size of an update. 3e-4 suits most LoRAs; lower it if the loss jumps.",
            "zh": "每次更新的幅度。3e-4 适合多数 LoRA；损失剧烈波动时请调低。",
        },
        minimum=1e-9,
        maximum=1.0,
        group="schedule",
    ),
    Option(
        "lr_scheduler_type",
        "lr_scheduler_type",
        "cosine",
        {"en": "LR Scheduler", "zh": "学习率调度器"},
        {"en": "How the learning rate changes after the warm-up.", "zh": "热身之后学习率的变化方式。"},
        choices=(
            "linear",
            "constant",
            "constant_with_warmup",
            "cosine",
            "cosine_with_restarts",
            "polynomial",
            "inverse_sqrt",
        ),
        group="schedule",
    ),
    Option(
        "warmup_steps",
        "warmup_steps",
        float(AUTOMATIC),
        {"en": "Warmup Steps", "zh": "热身步数"},
        {
            "en": "Updates in which the rate rises from 0; below 1: their share. -1 = a tenth, at most 100.",
            "zh": "学习率从 0 升高的更新次数；小于 1 为所占比例。-1 表示十分之一，最多 100 次。",
        },
        minimum=AUTOMATIC,
        maximum=1_000_000,
        group="schedule",
    ),
    Option(
        "save_steps",
        "save_steps",
        0,
        {"en": "Save every n steps", "zh": "每 n 步保存一次"},
        {
            "en": "Updates between checkpoints, from which a run is resumed. 0 = at each evaluation, or each epoch.",
            "zh": "检查点之间的更新次数，可从检查点继续训练。0 表示每次评估时，否则每个周期。",
        },
        minimum=0,
        maximum=1_000_000,
        group="schedule",
    ),
    Option(
        "eval_steps",
        "eval_steps",
        100,
        {"en": "Evaluate every n steps", "zh": "每 n 步评估一次"},
        {
            "en": "Updates between evaluations, if there are rows for it.",
            "zh": "两次评估之间的更新次数（有评估数据时）。",
        },
        minimum=1,
        maximum=1_000_000,
        group="schedule",
    ),
)

_ADVANCED = (
    Option(
        "optimizer",
        "optimizer",
        "adamw_torch",
        {"en": "Optimizer", "zh": "优化器"},
        {
            "en": "adamw_torch suits most; adafactor and the 8-bit ones need less memory.",
            "zh": "通常用 adamw_torch；adafactor 和 8 位优化器占用内存较少。",
        },
        choices=("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "adamw_bnb_8bit", "lion_8bit"),
        group="advanced",
    ),
    Option(
        "weight_decay",
        "weight_decay",
        0.0,
        {"en": "Weight decay", "zh": "权重衰减"},
        {"en": "Pull the adapter's weights towards 0. 0 = off.", "zh": "使适配器权重趋向 0；0 为不启用。"},
        minimum=0.0,
        maximum=1.0,
        group="advanced",
    ),
    Option(
        "max_grad_norm",
        "max_grad_norm",
        1.0,
        {"en": "Gradient clipping", "zh": "梯度裁剪"},
        {"en": "Limit the norm of the gradient of an update. 0 = off.", "zh": "限制每次更新的梯度范数；0 为不启用。"},
        minimum=0.0,
        maximum=1000.0,
        group="advanced",
    ),
    Option(
        "gradient_checkpointing",
        "gradient_checkpointing",
        "auto",
        {"en": "Gradient checkpointing", "zh": "梯度检查点"},
        {
            "en": "Compute parts twice to need much less memory; the result is the same. auto: on a GPU.",
            "zh": "重复部分计算以大幅节省内存，结果不变。auto：仅在 GPU 上启用。",
        },
        choices=("auto", "on", "off"),
        group="advanced",
    ),
    Option(
        "packing",
        "packing",
        False,
        {"en": "Packing", "zh": "打包短行"},
        {
            "en": "Put several rows into one sequence up to the cutoff length. Faster for short rows.",
            "zh": "将多行拼入一个不超过截断长度的序列，短行训练更快。",
        },
        group="advanced",
    ),
    Option(
        "stop_at_loss",
        "stop_at_loss",
        0.0,
        {"en": "Stop at loss", "zh": "停止损失"},
        {
            "en": "End the run when the mean loss of 5 updates is not above this. 0 = off.",
            "zh": "连续 5 次更新的平均损失不高于此值时结束训练；0 为不启用。",
        },
        minimum=0.0,
        maximum=100.0,
        group="advanced",
    ),
    Option(
        "early_stopping_patience",
        "early_stopping_patience",
        0,
        {"en": "Early stopping", "zh": "提前停止"},
        {
            "en": "End after this many evaluations without improvement, and keep the best state. 0 = off.",
            "zh": "评估结果连续这么多次没有改善时结束，并保留最好的一次；0 为不启用。",
        },
        minimum=0,
        maximum=1000,
        group="advanced",
    ),
    Option(
        "seed",
        "seed",
        42,
        {"en": "Seed", "zh": "随机种子"},
        {
            "en": "The same seed, data and parameters give the same LoRA on the same machine.",
            "zh": "在同一台机器上，种子、数据和参数都相同时得到相同的 LoRA。",
        },
        minimum=0,
        maximum=2**31 - 1,
        group="advanced",
    ),
)

PARAMETERS: Mapping[str, Option] = {
    option.key: option for option in (*_DATA, *_RAW, *_BASE, *_LORA, *_SCHEDULE, *_ADVANCED)
}
"""All parameters by key, in the order of the form."""


def defaults() -> dict[str, Value]:
    return {key: option.default for key, option in PARAMETERS.items()}


def parse_parameters(raw: Mapping[str, object]) -> dict[str, Value]:
    """Return all parameters: the valid ones of `raw`, and defaults for the others.

    Raises OptionError, or UnknownOption for a key that is no parameter.
    """
    values = defaults() | parse_all(PARAMETERS, raw)
    _check_together(values)
    return values


def _check_together(values: Mapping[str, Value]) -> None:
    """Check parameters that depend on others. Raises OptionError for the one to change."""
    batch, micro, cutoff = (int(values[key]) for key in ("batch_size", "micro_batch_size", "cutoff_len"))
    if batch % micro:
        raise OptionError(
            "micro_batch_size", micro, {"en": f"a divisor of {batch}, the batch size", "zh": f"批量大小 {batch} 的约数"}
        )
    if values["raw_text_file"] and values["dataset"]:
        expected = {"en": "nothing, because a dataset is chosen", "zh": "空值，因为已选择数据集"}
        raise OptionError("raw_text_file", values["raw_text_file"], expected)
    for key in ("overlap_len", "newline_favor_len"):
        if values["raw_text_file"] and int(values[key]) >= cutoff:
            less = {"en": f"less than the cutoff length of {cutoff}", "zh": f"小于截断长度 {cutoff} 的值"}
            raise OptionError(key, values[key], less)
    if not values["all_linear"] and not any(values[f"{module}_en"] for module in TARGETS):
        expected = {"en": "true, or at least one target module", "zh": " true，或至少启用一个目标模块"}
        raise OptionError("all_linear", False, expected)
    rank = int(values["lora_rank"])
    if values["init_lora_weights"] == "orthogonal" and rank % 2:
        expected = {"en": "an even number, because “orthogonal” is chosen", "zh": "偶数，因为选择了 orthogonal"}
        raise OptionError("lora_rank", rank, expected)
    if values["train_on"] == "after" and not values["train_only_after"]:
        expected = {"en": "a text, because “after” is chosen", "zh": "一段文本，因为选择了 after"}
        raise OptionError("train_only_after", "", expected)
