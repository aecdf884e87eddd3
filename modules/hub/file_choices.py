"""Which files of a repository are offered and preselected for download, and which folder they go to.

A repository is a LoRA, a set of GGUF files to choose from, or a folder of weights. The user can change every choice,
but files that can run code when they are loaded are never preselected.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import OptionError, Unsupported, Words
from modules.formats.weight_files import PICKLES, first_part, iterate_parts, set_name
from modules.hub.errors import FileNotOnHub, IncompleteSet, NothingToDownload
from modules.hub.repository import RemoteFile, Repository

RECOMMENDED_QUANTIZATION = "Q4_K_M"
"""Marked as recommended, and preselected on the page; the command line takes it by default."""
_NEXT_BEST = ("Q4_K_S", "IQ4_XS", "Q4_0", "Q4_1", "Q5_K_M", "Q5_K_S", "Q3_K_M", "Q6_K", "Q8_0")
"""Preselected where the recommended quantization is missing: near four bits first, smaller before larger."""

_HALF_PRECISION = ("F16", "FP16", "BF16")

METADATA_SUFFIXES = (".json", ".txt", ".md", ".jinja", ".model", ".tiktoken", ".vocab")
_CODE_SUFFIXES = (".py",)
_ADAPTER_CONFIG = "adapter_config.json"
_ADAPTER_WEIGHTS = ("adapter_model", "adapters.", "pytorch_lora_weights.")
"""Beginnings of the names of a LoRA's weights, as PEFT, MLX and diffusers write them."""
_MODEL_WEIGHTS = ("model", "pytorch_model", "consolidated")
"""Beginnings of names that only the weights of whole models have; others count where a config.json is beside them."""
_PARTS_OF_MODELS = re.compile(r"(^|[_.-])(head|projector|optimizer|embeddings)[_.-]", re.IGNORECASE)
_GROUPS = ("gguf", "mmproj", "weights", "pickle", "metadata", "code", "other")

_QUANTIZATION = re.compile(
    r"(?<![A-Za-z0-9])("
    r"(?:UD-)?I?Q[1-8]_(?:K(?:_(?:XXS|XS|S|M|L|XL|P))?|NL|XXS|XS|S|M|L|XL|[01](?:_[0-9]_[0-9])?)"
    r"|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32"
    r")(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_MAX_FOLDER_NAME = 200
_MAX_SUGGESTIONS = 3
_MAX_MISSING = 10

PICKLE_WARNING: Words = {
    "en": "A pickle file (.bin, .pt): loading it may run code it contains. Select it only if you trust its author.",
    "zh": "pickle 文件（.bin、.pt）：加载时可能执行其中的代码。确认信任作者后再勾选。",
}
ONLY_PICKLES_WARNING: Words = {
    "en": "This repository offers its weights only as pickle files (.bin, .pt): loading them may run code they "
    "contain. Select them only if you trust their author.",
    "zh": "仓库只有 pickle 权重（.bin、.pt），加载时可能执行其中的代码。确认信任作者后再勾选。",
}
_TWO_FOLDERS: Words = {
    "en": "GGUF models and LoRAs go to different folders. Download them one after the other.",
    "zh": "GGUF 模型与 LoRA 存放在不同的文件夹，请分两次下载。",
}
CODE_WARNING: Words = {
    "en": "Code of the repository: it runs when the model is loaded with trust_remote_code. Read it first.",
    "zh": "仓库自带的代码，以 trust_remote_code 加载模型时会被执行，请先阅读。",
}


@dataclass(frozen=True)
class Choice:
    """One checkbox: a file, or all parts of a split file under the name of the first part.

    `group` is gguf, mmproj, weights, pickle, metadata, code or other. `quantization` is that in the name of a GGUF
    file, or "". `warning` is shown before the choice is selected. A choice with `missing` parts (the first ten are
    named) cannot be selected.
    """

    name: str
    files: tuple[RemoteFile, ...]
    group: str
    preselected: bool
    quantization: str = ""
    warning: Words | None = None
    missing: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Size of all parts in bytes."""
        return sum(file.size for file in self.files)

    @property
    def recommended(self) -> bool:
        return self.quantization == RECOMMENDED_QUANTIZATION and not self.missing


@dataclass(frozen=True)
class Destination:
    """Where files go: below `folder` of `root`, which is "models" or "loras"; an empty `folder` is the root itself.

    `paths` maps paths in the repository to paths below `folder`.
    """

    root: str
    folder: str
    paths: Mapping[str, str]


def restrict_to_folder(repository: Repository, folder: str) -> Repository:
    """Return the repository with only the files below `folder`. Raises FileNotOnHub if there are none."""
    if not folder:
        return repository
    files = tuple(file for file in repository.files if file.path.startswith(f"{folder}/"))
    if not files:
        folders = {file.path.rpartition("/")[0] for file in repository.files}
        raise FileNotOnHub(repository.name, folder, _similar(folder, folders))
    return Repository(repository.name, repository.revision, repository.commit, files)


def repository_kind(repository: Repository) -> str:
    """Return "lora", "gguf" or "model", judging by file names: what lies nearest to the top decides.

    A model beside an adapter is one that the adapter has been merged into; a config.json alone is that of the base.
    """
    paths = [file.path for file in repository.files]
    adapters = [path for path in paths if _is_adapter(path)]
    models = _model_weights(paths)
    gguf = [path for path in paths if _group(path) == "gguf"]
    if adapters and _depth(adapters) < _depth(models) and _depth(adapters) <= _depth(gguf):
        return "lora"
    weights = [path for path in paths if _group(path) == "weights" and not _is_adapter(path)]
    return "gguf" if gguf and not weights else "model"


def _is_adapter(path: str) -> bool:
    name = _name(path)
    is_weights = name.startswith(_ADAPTER_WEIGHTS) and _group(path) in ("weights", "pickle")
    return name == _ADAPTER_CONFIG or name == "adapters.npz" or is_weights


def _model_weights(paths: Collection[str]) -> list[str]:
    """Return the weights of whole models, as far as names tell: training leaves many other files beside adapters."""
    with_config = {_folder(path) for path in paths if _name(path) == "config.json"}
    candidates = [path for path in paths if _group(path) in ("weights", "pickle") and not _is_adapter(path)]
    return [
        path
        for path in candidates
        if _name(path).startswith(_MODEL_WEIGHTS)
        or (_folder(path) in with_config and _group(path) == "weights" and not _PARTS_OF_MODELS.search(_name(path)))
    ]


def _depth(paths: Iterable[str]) -> float:
    """Return how many folders the file nearest to the top is in; infinity without files."""
    return min((path.count("/") for path in paths), default=math.inf)


# -- choices -----------------------------------------------------------------------------------------------------------


def list_choices(repository: Repository) -> tuple[Choice, ...]:
    """Return all choices by group; GGUF files smallest first, all others by name."""
    kind = repository_kind(repository)
    groups = {_group(file.path) for file in repository.files}
    model_files = {_name(file.path) for file in repository.files if _name(file.path).startswith("model")}
    has_model = any(name.endswith(".safetensors") for name in model_files)
    choices = [_choice(name, parts, kind, groups, has_model) for name, parts in _sets(repository.files).items()]
    return tuple(sorted(choices, key=_sort_key))


def select_choices(repository: Repository, names: Collection[str] | None = None) -> tuple[RemoteFile, ...]:
    """Return the files of the choices called `names`, or of the preselected choices if None.

    Raises FileNotOnHub for an unknown name, IncompleteSet, or NothingToDownload.
    """
    choices = {choice.name: choice for choice in list_choices(repository)}
    if names is None:
        names = [name for name, choice in choices.items() if choice.preselected]
    for name in names:
        if name not in choices:
            raise FileNotOnHub(repository.name, name, _similar(name, [file.path for file in repository.files]))
    return _files_of(repository, [choices[name] for name in dict.fromkeys(names)])


def find_file(repository: Repository, file: str) -> tuple[RemoteFile, ...]:
    """Return the file with this path, or with this name if it is unique; all parts of a split file.

    Raises FileNotOnHub or IncompleteSet.
    """
    choices = list_choices(repository)
    matches = [choice for choice in choices if any(file == part.path for part in choice.files)]
    matches = matches or [choice for choice in choices if any(file == _name(part.path) for part in choice.files)]
    if len(matches) != 1:
        raise FileNotOnHub(repository.name, file, _similar(file, [other.path for other in repository.files]))
    return _files_of(repository, matches)


def select_metadata(repository: Repository) -> tuple[RemoteFile, ...]:
    """Return the files that describe the model, without any weights. Raises NothingToDownload."""
    return _files_of(repository, [choice for choice in list_choices(repository) if choice.group == "metadata"])


def select_recommended_gguf(repository: Repository) -> tuple[RemoteFile, ...]:
    """Return the only GGUF file, or the recommended one, as the original web UI chooses.

    Raises OptionError, which lists the files, if neither exists; IncompleteSet; NothingToDownload.
    """
    choices = [choice for choice in list_choices(repository) if choice.group == "gguf"]
    recommended = [choice for choice in choices if choice.recommended]
    if len(choices) > 1 and len(recommended) != 1:
        listing = "".join(f"\n  {choice.name}" for choice in choices)
        raise OptionError("--specific-file", "", {"en": f"one of:{listing}", "zh": f"以下之一：{listing}"})
    return _files_of(repository, recommended or choices)


def preselected_gguf(choices: Iterable[Choice]) -> Choice | None:
    """Return the GGUF file to select in advance: the recommended one, or the next best; None if several are alike."""
    complete = [choice for choice in choices if choice.group == "gguf" and not choice.missing]
    if len(complete) == 1:
        return complete[0]
    for quantization in (RECOMMENDED_QUANTIZATION, *_NEXT_BEST):
        alike = [choice for choice in complete if choice.quantization.upper() == quantization]
        if alike:
            return alike[0] if len(alike) == 1 else None
    return None


def preselected_projector(choices: Iterable[Choice]) -> Choice | None:
    """Return the vision part to select in advance, without which a GGUF model reads no images: one of half precision.

    None if there is none, or several alike.
    """
    complete = [choice for choice in choices if choice.group == "mmproj" and not choice.missing]
    if len(complete) == 1:
        return complete[0]
    for quantization in _HALF_PRECISION:
        alike = [choice for choice in complete if choice.quantization.upper() == quantization]
        if alike:
            return alike[0] if len(alike) == 1 else None
    return None


def exclude_files(files: Iterable[RemoteFile], pattern: str) -> tuple[RemoteFile, ...]:
    """Drop the files whose path matches the regular expression `pattern` from its beginning.

    Raises OptionError for an invalid pattern, and NothingToDownload if no file is left.
    """
    try:
        excluded = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        expected = {"en": f"a regular expression ({error})", "zh": f"正则表达式（{error}）"}
        raise OptionError("exclude-pattern", pattern, expected) from None
    kept = tuple(file for file in files if not excluded.match(file.path))
    if not kept:
        raise NothingToDownload()
    return kept


def _files_of(repository: Repository, choices: Sequence[Choice]) -> tuple[RemoteFile, ...]:
    for choice in choices:
        if choice.missing:
            raise IncompleteSet(repository.name, choice.name, choice.missing)
    files = tuple(file for choice in choices for file in choice.files)
    if not files:
        raise NothingToDownload()
    return files


def _similar(name: str, paths: Iterable[str]) -> tuple[str, ...]:
    """Return the paths that resemble `name`, as a whole or in their last segment."""
    candidates: dict[str, str] = {}
    for path in paths:
        candidates.setdefault(_name(path).casefold(), path)
        candidates[path.casefold()] = path
    close = difflib.get_close_matches(name.casefold(), candidates, 2 * _MAX_SUGGESTIONS, cutoff=0.4)
    return tuple(dict.fromkeys(candidates[match] for match in close))[:_MAX_SUGGESTIONS]


# -- destination -------------------------------------------------------------------------------------------------------


def destination(repository: Repository, files: Sequence[RemoteFile]) -> Destination:
    """Return where the selected `files` of `repository` go.

    A single GGUF file goes directly to the models folder, a split one to a folder of its name, and everything else to
    <user>_<repository>, followed by the branch unless it is main.
    """
    names = [_name(file.path) for file in files]
    if {_group(file.path) for file in files} == {"gguf"}:
        flat = dict(zip([file.path for file in files], names, strict=True))
        sets = _sets(files)
        if len(sets) == 1 and len(files) > 1:
            return Destination("models", set_name(Path(next(iter(sets)))), flat)
        if len(sets) == len(files) == len({name.casefold() for name in names}):
            return Destination("models", "", flat)
    return Destination(_root(repository, files), _folder_name(repository), {file.path: file.path for file in files})


def _root(repository: Repository, files: Sequence[RemoteFile]) -> str:
    """Return "loras" for an adapter without a model; files that are neither go where their repository would."""
    paths = [file.path for file in files]
    if _model_weights(paths) or any(_group(path) == "gguf" for path in paths):
        return "models"
    is_adapter = any(map(_is_adapter, paths)) or repository_kind(repository) == "lora"
    return "loras" if is_adapter else "models"


def check_one_folder(files: Sequence[RemoteFile]) -> None:
    """Raise Unsupported for GGUF files together with an adapter: each is found only in a folder of its own kind."""
    if any(_group(file.path) == "gguf" for file in files) and any(_is_adapter(file.path) for file in files):
        raise Unsupported(_TWO_FOLDERS)


def _folder_name(repository: Repository) -> str:
    """Return the folder name of the original web UI; one too long for a disk is cut and made unique by a hash."""
    branch = "" if repository.revision == "main" else "_" + repository.revision.replace("/", "_")
    name = (repository.name.replace("/", "_") + branch).rstrip(".")
    if len(name) <= _MAX_FOLDER_NAME:
        return name
    return f"{name[: _MAX_FOLDER_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


# -- judging by names --------------------------------------------------------------------------------------------------


def quantization(path: str) -> str:
    """Return the quantization in the name of the GGUF file at `path`, or else in its folder's name, or ""."""
    for part in reversed(path.split("/")[-2:]):
        if matches := _QUANTIZATION.findall(part):
            return str(matches[-1]).upper()
    return ""


def _sets(files: Iterable[RemoteFile]) -> dict[str, list[RemoteFile]]:
    """Group the parts of split files under the path of the first part."""
    sets: dict[str, list[RemoteFile]] = {}
    for file in files:
        sets.setdefault(first_part(Path(file.path)).as_posix(), []).append(file)
    return {name: sorted(parts, key=lambda file: file.path) for name, parts in sets.items()}


def _choice(name: str, parts: Sequence[RemoteFile], kind: str, groups: set[str], has_model: bool) -> Choice:
    group = _group(name)
    present = {file.path for file in parts}
    absent = (part.name for part in iterate_parts(Path(name)) if part.as_posix() not in present)
    missing = tuple(itertools.islice(absent, _MAX_MISSING))
    return Choice(
        name=name,
        files=tuple(parts),
        group=group,
        preselected=not missing and _is_preselected(name, group, kind, has_model),
        quantization=quantization(name) if group in ("gguf", "mmproj") else "",
        warning=_warning(group, groups),
        missing=missing,
    )


def _is_preselected(name: str, group: str, kind: str, has_model: bool) -> bool:
    if kind == "gguf":
        return False  # the user picks a quantization; a GGUF file contains its own metadata
    if kind == "model" and _is_adapter(name):
        return False  # it has been merged into the model, or is another way to use it
    if group == "weights":
        return not (has_model and _name(name).startswith("consolidated"))
    return group == "metadata"


def _warning(group: str, groups: set[str]) -> Words | None:
    if group == "pickle":
        return PICKLE_WARNING if groups & {"weights", "gguf"} else ONLY_PICKLES_WARNING
    return CODE_WARNING if group == "code" else None


def _group(path: str) -> str:
    name = _name(path).lower()
    if name.endswith(".gguf"):
        return "mmproj" if "mmproj" in name else "other" if "imatrix" in name else "gguf"
    suffixes_by_group = {
        "weights": (".safetensors",),
        "pickle": PICKLES,
        "metadata": METADATA_SUFFIXES,
        "code": _CODE_SUFFIXES,
    }
    return next((group for group, suffixes in suffixes_by_group.items() if name.endswith(suffixes)), "other")


def _sort_key(choice: Choice) -> tuple[int, int, str]:
    size = choice.size if choice.group in ("gguf", "mmproj") else 0
    return _GROUPS.index(choice.group), size, choice.name.casefold()


def _name(path: str) -> str:
    return path.rpartition("/")[2]


def _folder(path: str) -> str:
    return path.rpartition("/")[0]
