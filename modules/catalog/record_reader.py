"""Turn the files of one folder into model records: GGUF files, loose weights, and the folder as a checkpoint."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from modules.catalog.duplicates import read_sample
from modules.catalog.projectors import MARK, is_projector, with_projector
from modules.catalog.record import ModelRecord
from modules.catalog.scan_cache import FileReader, ScanCache
from modules.catalog.unsupported import (
    LOOSE_WEIGHTS,
    UNSUPPORTED_FORMATS,
    unsupported_checkpoint,
    unsupported_reason,
)
from modules.core.errors import IncompleteModel, ModelProblem, UnsupportedModel, Words
from modules.formats.checkpoint import (
    DESCRIPTION_FILES,
    TEMPLATE_FOLDER,
    Checkpoint,
    indexed_files,
    read_description,
)
from modules.formats.embedding import PIPELINE, gguf_task
from modules.formats.gguf_header import GgufHeader, merge_parts, read_header
from modules.formats.model_shape import sum_sizes
from modules.formats.safetensors_header import WeightHeader, read_tensor_names, read_weight_header
from modules.formats.server_file import FORMAT as SERVER
from modules.formats.server_file import SUFFIX, ServerFile, read_server
from modules.formats.weight_files import (
    ADAPTER_CONFIG,
    FORMATS,
    all_parts,
    choose_weights,
    files_below,
    foreign_format,
    group_parts,
    has_weight_name,
    indexed_suffix,
    missing_config,
    missing_parts,
    select_weights,
    several_models,
    weights_packing,
)
from modules.options.option import Value
from modules.system.directory_walk import Files, list_folder
from modules.system.format_errors import printable

_HEADER = FileReader("header", read_header, dataclasses.asdict, GgufHeader.from_json)
_DESCRIPTION = FileReader("about", read_description, dict, dict)
_WEIGHTS = FileReader("weights", read_weight_header, dataclasses.asdict, WeightHeader.from_json)
_SAMPLE = FileReader("sample", read_sample, str, str)
_SERVER = FileReader("server", read_server, dataclasses.asdict, lambda body: ServerFile(**body))
_TENSORS: FileReader[frozenset[str]] = FileReader("tensors", read_tensor_names, sorted, frozenset)


class RecordReader:
    """Read model records of the folder of models `top` through the cache."""

    def __init__(self, top: Path, cache: ScanCache) -> None:
        self._top = top
        self._cache = cache

    def records(self, folder: Path, files: Files) -> Iterator[ModelRecord]:
        """Yield the models among the `files` of `folder`, and the model that the folder is, if it is one."""
        return itertools.chain(self.file_records(folder, files), self.folder_records(folder, files))

    def file_records(self, folder: Path, files: Files) -> Iterator[ModelRecord]:
        groups = group_parts(files, {".gguf"})
        projectors = self._projectors(groups)
        for first, parts in groups.items():
            if first.name not in projectors or len(projectors) == len(groups):  # else it belongs to one of the models
                yield with_projector(self._gguf_record(first, parts), projectors, shared=folder == self._top)
        if folder == self._top:
            for first, parts in group_parts(files, FORMATS).items():
                yield self._loose_record(first, parts)
            # Not in subfolders, which are downloaded: whoever made one would get the prompts.
            for path, status in files.items():
                if path.name.lower().endswith(SUFFIX):
                    yield self._server_record(path, status)

    def folder_records(self, folder: Path, files: Files) -> Iterator[ModelRecord]:
        if folder == self._top or (folder.parent / PIPELINE).is_file():  # a layer of an embedding model
            return
        if folder / "model_index.json" in files or folder / "config.json" in files:
            yield from self._checkpoint_record(folder, files)
        elif folder / ADAPTER_CONFIG not in files:
            yield from self._checkpoint_record(folder, files, has_weight_name)

    def sample(self, path: Path, status: os.stat_result) -> str:
        """Return a hash of parts of the file; "" if it cannot be read."""
        sample = self._cache.get(path, status, _SAMPLE)
        return sample if isinstance(sample, str) else ""

    def _projectors(self, groups: Mapping[Path, Files]) -> dict[str, GgufHeader]:
        """Return the headers of the vision parts among GGUF files, by the names of the files."""
        named = {
            first: parts[first] for first, parts in groups.items() if MARK in first.name.lower() and first in parts
        }
        headers = {path: self._cache.get(path, status, _HEADER) for path, status in named.items()}
        return {
            path.name: header
            for path, header in headers.items()
            if isinstance(header, GgufHeader) and is_projector(path, header)
        }

    def _gguf_record(self, first: Path, parts: Files) -> ModelRecord:
        results = [self._cache.get(part, status, _HEADER) for part, status in parts.items()]
        headers = [result for result in results if isinstance(result, GgufHeader)]
        problem = _first_problem(results) or missing_parts(first, all_parts(first), parts)
        record = ModelRecord(self._name(first), first, "gguf", _total_size(parts), problem=problem, files=parts)
        if not headers:
            return record
        header = headers[0]  # the files are sorted: this is the first part, unless that one is the problem
        return dataclasses.replace(
            with_header(record, merge_parts(headers, record.size)),
            problem=_unsupported(first, unsupported_reason(header)) or problem or _misnamed(first, header),
            parameters=sum(header.parameters for header in headers),
        )

    def _server_record(self, path: Path, status: os.stat_result) -> ModelRecord:
        server = self._cache.get(path, status, _SERVER)
        if isinstance(server, ModelProblem):
            return ModelRecord(self._name(path), path, SERVER, 0, problem=server)
        return server_record(self._name(path), path, server)

    def _loose_record(self, first: Path, parts: Files) -> ModelRecord:
        """Return the record of weights directly in the folder of models, which nothing describes."""
        problem = _first_problem(self._cache.get(part, status, _WEIGHTS) for part, status in parts.items())
        return ModelRecord(
            name=self._name(first),
            path=first,
            format=_plain_format(first.suffix, problem),
            size=_total_size(parts),
            problem=problem or _unsupported(first, LOOSE_WEIGHTS),
            files=parts,
        )

    def _checkpoint_record(
        self, folder: Path, files: Files, is_weight: Callable[[Path], bool] = lambda path: True
    ) -> Iterator[ModelRecord]:
        """Yield the model that `folder` is, if there are weights, or an index that says which are needed."""
        present = {path: files[path] for path in (folder / name for name in DESCRIPTION_FILES) if path in files}
        present |= list_folder(folder / TEMPLATE_FOLDER, lambda name: name.endswith(".jinja"))[1]
        results = {
            path.relative_to(folder).as_posix(): self._cache.get(path, status, _DESCRIPTION)
            for path, status in present.items()
        }
        descriptions = {name: result for name, result in results.items() if isinstance(result, dict)}
        indexed = {suffix: {folder / part for part in indexed_files(descriptions, suffix)} for suffix in FORMATS}
        candidates = {**files, **files_below(folder, itertools.chain(*indexed.values()))}
        weights = {path: status for path, status in select_weights(candidates).items() if is_weight(path)}
        suffix = next((path.suffix.lower() for path in weights), indexed_suffix(folder, files))
        if not suffix and "model_index.json" not in results:
            yield from self._foreign_record(folder, files)
            return
        choice = choose_weights(weights, indexed.get(suffix, ()), lambda path: self._tensors(path, weights[path]))
        needed = choice.needed
        used = {path: status for path, status in weights.items() if path in needed} or weights
        weight_results = [self._cache.get(path, status, _WEIGHTS) for path, status in used.items()]
        headers = [result for result in weight_results if isinstance(result, WeightHeader)]
        checkpoint = Checkpoint(descriptions, weights_packing(folder, used, headers))
        task = checkpoint.task({path.name for path in files})
        sizes = sum_sizes(header.sizes for header in headers)
        problem = (
            _first_problem(results.values())
            or _unsupported(folder, unsupported_checkpoint(checkpoint, folder, files, task))
            or (several_models(folder, choice.rivals) if not checkpoint.format else None)
            or _first_problem(weight_results)
        )
        yield ModelRecord(
            name=self._name(folder),
            path=folder,
            format=checkpoint.format or _plain_format(suffix, _first_problem(weight_results)),
            size=_total_size(used),
            architecture=checkpoint.architecture,
            quantization=checkpoint.quantization,
            parameters=0 if checkpoint.method else sizes.elements,  # packed elements are not parameters
            layers=checkpoint.layers,
            context_length=checkpoint.context_length,
            chat_template=checkpoint.chat_template,
            named_templates=checkpoint.named_templates,
            problem=problem or missing_config(folder, files) or missing_parts(folder, needed, used),
            defaults=checkpoint.load_options(),
            shape=checkpoint.shape(sizes, _total_size(used)),
            files=used,
            task=task,
            images=checkpoint.reads_images({path.name for path in files}),
        )

    def _tensors(self, path: Path, status: os.stat_result) -> frozenset[str]:
        """Return the names of the tensors in a weight file; empty if they cannot be read."""
        if path.suffix.lower() != ".safetensors":
            return frozenset()
        names = self._cache.get(path, status, _TENSORS)
        return frozenset() if isinstance(names, ModelProblem) else names

    def _foreign_record(self, folder: Path, files: Files) -> Iterator[ModelRecord]:
        """Yield a record if the only weights in `folder` are those of other programs.

        They say nothing new beside a model, such as those in a subfolder called "original".
        """
        kind = foreign_format(files)
        inside_model = any(
            (parent / "config.json").is_file() for parent in folder.parents if parent.is_relative_to(self._top)
        )
        if kind and not inside_model:
            weights = {path: status for path, status in files.items() if foreign_format([path]) == kind}
            reason = _unsupported(folder, UNSUPPORTED_FORMATS[kind])
            yield ModelRecord(self._name(folder), folder, kind, _total_size(weights), problem=reason, files=weights)

    def _name(self, path: Path) -> str:
        """Return the path below the folder of models; of a model elsewhere, the last part of its path."""
        name = path.relative_to(self._top).as_posix() if path.is_relative_to(self._top) else path.name
        return printable(name)


def server_record(name: str, path: Path, server: ServerFile) -> ModelRecord:
    """Return the record of a model elsewhere. It has no `files`, which are those of weights."""
    return ModelRecord(name, path, SERVER, 0, defaults=server.load_options(), server=server)


def with_header(record: ModelRecord, header: GgufHeader) -> ModelRecord:
    """Return `record` with the facts from its GGUF header."""
    return dataclasses.replace(
        record,
        architecture=header.architecture,
        quantization=header.quantization,
        parameters=header.parameters,
        layers=header.block_count,
        context_length=header.context_length,
        chat_template=header.chat_template,
        named_templates=header.named_templates,
        defaults=_load_options(header),
        header=header,
        task=gguf_task(header),
    )


def _load_options(header: GgufHeader) -> dict[str, Value]:
    """Return the load options that a GGUF header determines; what it leaves out is left to llama.cpp."""
    options: dict[str, Value] = {"n_ctx": header.context_length, "rope_freq_base": header.rope_freq_base}
    return {key: value for key, value in options.items() if value}


def _total_size(files: Files) -> int:
    return sum(status.st_size for status in files.values())


def _plain_format(suffix: str, problem: ModelProblem | None) -> str:
    return "ggml" if isinstance(problem, UnsupportedModel) else FORMATS[suffix.lower()]


def _unsupported(model: Path, reason: Words | None) -> UnsupportedModel | None:
    return UnsupportedModel(printable(model.name), reason) if reason else None


def _misnamed(first: Path, header: GgufHeader) -> IncompleteModel | None:
    """Return the problem of a split file under another name: llama.cpp finds the parts by their names alone."""
    count = header.split_count
    if count < 2 or count == len(all_parts(first)):
        return None
    problem = {
        "en": f"this is one of {count} parts, which must be named like model-00001-of-{count:05}.gguf.",
        "zh": f"这是 {count} 个分卷之一，各分卷须按 model-00001-of-{count:05}.gguf 的形式命名。",
    }
    return IncompleteModel(printable(first.name), problem)


def _first_problem(results: Iterable[object]) -> ModelProblem | None:
    return next((result for result in results if isinstance(result, ModelProblem)), None)
