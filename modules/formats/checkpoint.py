"""Facts from the JSON files of a checkpoint: a folder of weights as transformers lays it out.

Source: the files that transformers, AutoGPTQ, AutoAWQ, ExLlamaV2, MLX and diffusers write.
"""

from __future__ import annotations

import contextlib
from collections.abc import Container, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath

from modules.core.errors import ModelProblem
from modules.formats.embedding import checkpoint_task
from modules.formats.json_file import MAX_JSON_BYTES, Json, first_integer, read_json
from modules.formats.model_shape import CONTEXT_KEYS, LAYER_KEYS, ModelShape, TensorSizes, model_shape
from modules.formats.quantization import PLAIN, Packing
from modules.formats.rope_parameters import ALL_LAYERS, linear_factor, rope_parameters
from modules.options.load import OPTIONS
from modules.options.option import Value
from modules.system.bounded_reader import BoundedReader, parse_file
from modules.system.format_errors import printable

DESCRIPTION_FILES = (
    "config.json",
    "quantize_config.json",
    "quant_config.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "chat_template.json",
    "processor_config.json",
    "model.safetensors.index.json",
    "pytorch_model.bin.index.json",
    "model_index.json",
)
"""The files that describe a checkpoint, for `read_description` and `Checkpoint`."""
TEMPLATE_FOLDER = "additional_chat_templates"
"""Holds further chat templates, NAME.jinja, which describe the checkpoint as well."""

_PROCESSOR_FILES = ("chat_template.json", "processor_config.json")
"""Files of a model that sees, from which only the chat template is read: the model works if they are damaged."""
_IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
_DEFAULT_TEMPLATE = "default"
_DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_METHODS_WITH_LOADER = ("gptq", "awq", "exl2", "exl3", "mlx")
_METHOD_FILES = {"quantize_config.json": "gptq", "quant_config.json": "awq"}  # used before config.json had the settings
_METHODS_WITH_ESTIMATE = {"", "gptq", "awq", "exl2"}
_DEFAULT_ROPE_BASE = 10000


def read_description(path: Path) -> Json:
    """Read one of DESCRIPTION_FILES or of TEMPLATE_FOLDER; a bare template becomes a JSON object too.

    Raises ModelProblem or OSError. Of files that run to megabytes only what is needed is kept: of an index the names
    of the files.
    """
    if path.suffix == ".jinja":
        return {"chat_template": parse_file(path, _whole_text)}
    if path.name in _PROCESSOR_FILES:
        with contextlib.suppress(ModelProblem):
            return {"chat_template": read_json(path).get("chat_template")}
        return {}
    content = read_json(path)
    if path.name == "tokenizer_config.json":
        return {"chat_template": content.get("chat_template")}
    if path.name.endswith(".index.json"):
        return {"files": sorted({str(file) for file in _object(content, "weight_map").values()})}
    return content


def _whole_text(reader: BoundedReader) -> str:
    return reader.read(min(reader.size, MAX_JSON_BYTES)).decode("utf-8", "replace")


def indexed_files(descriptions: Mapping[str, Json], suffix: str) -> set[str]:
    """Return the weight files that the index for ".safetensors" or ".bin" names; empty without an index."""
    stem = "model" if suffix == ".safetensors" else "pytorch_model"
    return set(descriptions.get(f"{stem}{suffix}.index.json", {}).get("files", ()))


class Checkpoint:
    """Facts about a checkpoint. Invalid values in its files are ignored.

    `descriptions` has the results of `read_description` by path below its folder. `packing` is what the weights
    themselves show; where the JSON files state something else, they win.
    """

    def __init__(self, descriptions: Mapping[str, Json], packing: Packing = PLAIN) -> None:
        """`method` becomes the name of the quantization, such as "gptq"; empty if there is none."""
        self._descriptions = descriptions
        self._packing = packing
        config = descriptions.get("config.json", {})
        # A multimodal model has the config of its language model inside.
        self._config = _object(config, "text_config") | config
        file, method = next((pair for pair in _METHOD_FILES.items() if pair[0] in descriptions), ("", ""))
        # MLX writes "quantization", and beside it a "quantization_config" without a method.
        mlx = _object(config, "quantization")
        self._quantization = mlx | descriptions.get(file, {}) | _object(config, "quantization_config")
        method = _string(self._quantization, "quant_method") or method or ("mlx" if mlx else "") or packing.method
        self.method = method.lower()

    @property
    def format(self) -> str:
        """ "gptq", "awq", "exl2", "exl3", "mlx" or "diffusers"; "" if the weights are plain."""
        if "model_index.json" in self._descriptions or "_class_name" in self._descriptions.get("config.json", {}):
            return "diffusers"
        return self.method if self.method in _METHODS_WITH_LOADER else ""

    @property
    def architecture(self) -> str:
        return _string(self._config, "model_type")

    @property
    def architectures(self) -> tuple[str, ...]:
        """The classes that transformers would make, such as "LlamaForCausalLM"."""
        names = self._descriptions.get("config.json", {}).get("architectures")
        return tuple(printable(name) for name in names if isinstance(name, str)) if isinstance(names, list) else ()

    def task(self, files: Container[str]) -> str:
        """Return what `formats.embedding` recognizes by config.json and by the names of the `files` in the folder."""
        return checkpoint_task(self._descriptions.get("config.json", {}), files)

    def reads_images(self, files: Container[str]) -> bool:
        """Tell whether it has a vision tower and, among the `files` in the folder, what prepares pictures for that."""
        config = self._descriptions.get("config.json", {})
        return bool(_object(config, "vision_config")) and any(file in files for file in _IMAGE_PROCESSOR_FILES)

    @property
    def has_own_code(self) -> bool:
        return bool(_object(self._descriptions.get("config.json", {}), "auto_map"))

    @property
    def layers(self) -> int:
        return first_integer(self._config, *LAYER_KEYS)

    @property
    def context_length(self) -> int:
        return first_integer(self._config, *CONTEXT_KEYS)

    @property
    def quantization(self) -> str:
        """Such as "GPTQ 4-bit 128g", "EXL2 4.25-bit", "FP8"; of plain weights their dtype, such as "BF16"."""
        if not self.method:
            return _DTYPES.get(_string(self._config, "dtype", "torch_dtype").removeprefix("torch."), "")
        bits, group = self._bits(), self._group_size()
        return self.method.upper() + (f" {bits:g}-bit" if bits else "") + (f" {group}g" if group > 0 else "")

    def _bits(self) -> float:
        four, eight = (self._quantization.get(f"load_in_{bits}bit") is True for bits in (4, 8))  # bitsandbytes
        return _number(self._quantization, "bits", "w_bit") or 4.0 * four or 8.0 * eight or self._own_packing().bits

    def _group_size(self) -> int:
        return first_integer(self._quantization, "group_size", "q_group_size", minimum=-1) or self._own_packing().group

    def _own_packing(self) -> Packing:
        return self._packing if self._packing.method == self.method else PLAIN

    @property
    def chat_template(self) -> str:
        """The template for plain conversations; of several, the one called "default"."""
        return self._templates.get(_DEFAULT_TEMPLATE, "")

    @property
    def named_templates(self) -> dict[str, str]:
        """The other templates, such as "tool_use", by name."""
        return {name: text for name, text in self._templates.items() if name != _DEFAULT_TEMPLATE}

    @cached_property
    def _templates(self) -> dict[str, str]:
        """All templates by name. Those in files of their own come before the tokenizer's, then the processor's."""
        templates: dict[str, str] = {}
        for file in reversed(("chat_template.jinja", "tokenizer_config.json", *_PROCESSOR_FILES)):
            templates |= _named_templates(self._descriptions.get(file, {}).get("chat_template"))
        for file, description in self._descriptions.items():
            if file.startswith(f"{TEMPLATE_FOLDER}/"):
                templates[PurePosixPath(file).stem] = _string(description, "chat_template")
        return templates

    def shape(self, sizes: TensorSizes, size: int) -> ModelShape | None:
        """Return its dimensions, given the tensors and the bytes of its weights; None if its memory is unknown."""
        if not {self.method, self.format} <= _METHODS_WITH_ESTIMATE:
            return None
        return model_shape(self._config, sizes, size, self.method)

    def load_options(self) -> dict[str, Value]:
        """Return the load options that its files determine, where they differ from no scaling and no quantization."""
        options: dict[str, Value] = {"max_seq_len": self.context_length} if self.context_length else {}
        base, factor = self._rope()
        if base not in (0, _DEFAULT_ROPE_BASE):
            options["rope_freq_base"] = base
        if factor > 1:
            options["compress_pos_emb"] = factor
        return options | (self._gptq_options() if self.method == "gptq" else {})

    def _rope(self) -> tuple[float, float]:
        """Return the base frequency and the factor of linear scaling; 0 where there is none."""
        # One value for all types of layers would be wrong where each has its own.
        rope = rope_parameters(self._config).get(ALL_LAYERS)
        return (rope["rope_theta"], linear_factor(rope)) if rope else (0.0, 0.0)

    def _gptq_options(self) -> dict[str, Value]:
        options: dict[str, Value] = {"wbits": int(self._bits()), "groupsize": self._group_size()}
        # A value that the options do not offer comes from a newer program, which wrote it where the loader reads it.
        offered = {
            key: value for key, value in options.items() if value and str(value) in map(str, OPTIONS[key].choices)
        }
        act_order: dict[str, Value] = {"desc_act": self._quantization.get("desc_act") is True}
        return (act_order if self._quantization else {}) | offered


def _named_templates(value: object) -> dict[str, str]:
    """Return the templates in a value of "chat_template": a text, a list of named ones, or an object of them."""
    if isinstance(value, str):
        return {_DEFAULT_TEMPLATE: printable(value)}
    if isinstance(value, list):
        value = {str(item.get("name")): item.get("template") for item in value if isinstance(item, dict)}
    if not isinstance(value, dict):
        return {}
    return {printable(name): printable(text) for name, text in value.items() if isinstance(text, str)}


def _object(source: Json, key: str) -> Json:
    value = source.get(key)
    return value if isinstance(value, dict) else {}


def _number(source: Json, *keys: str) -> float:
    """Return the first positive number among the values of `keys`; 0 if there is none."""
    values = (source.get(key) for key in keys)
    numbers = (float(value) for value in values if isinstance(value, (int, float)) and 0 < value < 1e30)
    return next(numbers, 0.0)


def _string(source: Json, *keys: str) -> str:
    """Return the first string among the values of `keys`, made printable; "" if there is none."""
    values = (source.get(key) for key in keys)
    return next((printable(value) for value in values if isinstance(value, str)), "")
