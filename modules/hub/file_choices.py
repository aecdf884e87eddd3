"""Which files of a repository to have, and where they go: what is proposed before anything is downloaded.

A repository is a LoRA, a set of GGUF files to choose from, or a folder of weights. Every box can be changed, but what
can run code when it is loaded is never ticked for the user.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.core.errors import OptionError, Words
from modules.formats.weight_files import PICKLES, first_part, parts_of, set_name
from modules.hub.errors import FileNotOnHub, IncompleteSet, NothingToDownload
from modules.hub.repository import RemoteFile, Repository

RECOMMENDED = "Q4_K_M"
"""The quantisation that most people want; marked, not ticked."""

ABOUT = (".json", ".txt", ".md", ".jinja", ".model", ".tiktoken", ".vocab")
_CODE = (".py",)
_ADAPTER = {"adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"}
_GROUPS = ("gguf", "mmproj", "weights", "pickle", "about", "code", "other")

_QUANTISATION = re.compile(
    r"(?<![A-Za-z0-9])("
    r"(?:UD-)?I?Q[1-8]_(?:K(?:_(?:XXS|XS|S|M|L|XL|P))?|NL|XXS|XS|S|M|L|XL|[01](?:_[0-9]_[0-9])?)"
    r"|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|FP?16|FP?32"
    r")(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_LONGEST_NAME = 200
_NEAREST = 3
_MOST_MISSING = 10

PICKLE: Words = {
    "en": "A pickle (.bin, .pt): loading it may run code that is in it. Tick it only if you trust its author.",
    "zh": "pickle 文件（.bin、.pt）：加载时可能执行其中的代码。确认信任作者后再勾选。",
}
ONLY_PICKLES: Words = {
    "en": "This repository has its weights as pickles only (.bin, .pt): loading them may run code that is in them. "
    "Tick them only if you trust their author.",
    "zh": "仓库只有 pickle 权重（.bin、.pt），加载时可能执行其中的代码。确认信任作者后再勾选。",
}
CODE: Words = {
    "en": "Code of the repository. It is run when the model is loaded with trust_remote_code: read it first.",
    "zh": "仓库自带的代码，以 trust_remote_code 加载模型时会被执行，请先阅读。",
}


@dataclass(frozen=True)
class Choice:
    """One box: a file, or all parts of a split one under the first part's name.

    `group` is gguf, mmproj, weights, pickle, about, code or other. `quantisation` is a GGUF's, as its name says, "" if
    it does not. `warning` is what to read before it is ticked. With parts `missing` (the first ten are named) it cannot
    be.
    """

    name: str
    files: tuple[RemoteFile, ...]
    group: str
    ticked: bool
    quantisation: str = ""
    warning: Words | None = None
    missing: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(file.size for file in self.files)

    @property
    def recommended(self) -> bool:
        return self.quantisation == RECOMMENDED and not self.missing


@dataclass(frozen=True)
class Target:
    """Where files go: to `places` (by their path in the repository) below `folder` of `root`, "models" or "loras".

    An empty `folder` is the root itself.
    """

    root: str
    folder: str
    places: Mapping[str, str]


def below(repository: Repository, folder: str) -> Repository:
    """The same with the files below `folder` alone. FileNotOnHub if there are none."""
    if not folder:
        return repository
    files = tuple(file for file in repository.files if file.path.startswith(f"{folder}/"))
    if not files:
        raise FileNotOnHub(repository.name, folder, _nearest(folder, {_above(file.path) for file in repository.files}))
    return Repository(repository.name, repository.revision, repository.commit, files)


def kind(repository: Repository) -> str:
    """ "lora", "gguf" or "model"."""
    paths = [file.path for file in repository.files]
    if _ADAPTER.intersection(paths):
        return "lora"
    groups = {_group(path) for path in paths}
    return "gguf" if "gguf" in groups and "weights" not in groups else "model"


def choices(repository: Repository) -> tuple[Choice, ...]:
    """What there is to tick; GGUF files by size, the smallest first, and all else by name."""
    what = kind(repository)
    groups = {_group(file.path) for file in repository.files}
    whole = {_last(file.path) for file in repository.files if _last(file.path).startswith("model")}
    has_model = any(name.endswith(".safetensors") for name in whole)
    found = [_choice(name, parts, what, groups, has_model) for name, parts in _sets(repository.files).items()]
    return tuple(sorted(found, key=_place))


def picked(repository: Repository, names: Collection[str] | None = None) -> tuple[RemoteFile, ...]:
    """The files of the choices called `names`; of those ticked by default, if None.

    FileNotOnHub for a name that is no choice's; IncompleteSet; NothingToDownload.
    """
    known = {choice.name: choice for choice in choices(repository)}
    wanted = [each for each, choice in known.items() if choice.ticked] if names is None else list(dict.fromkeys(names))
    return _files(repository, [known[name] if name in known else _unknown(repository, name) for name in wanted])


def single(repository: Repository, file: str) -> tuple[RemoteFile, ...]:
    """The file of that path, or of that name if only one has it; all parts of a split one. FileNotOnHub;
    IncompleteSet."""
    known = choices(repository)
    holding = [choice for choice in known if any(file == part.path for part in choice.files)]
    holding = holding or [choice for choice in known if any(file == _last(part.path) for part in choice.files)]
    if len(holding) != 1:
        raise FileNotOnHub(repository.name, file, _nearest(file, [each.path for each in repository.files]))
    return _files(repository, holding)


def text_only(repository: Repository) -> tuple[RemoteFile, ...]:
    """What describes the model, without any weights. NothingToDownload."""
    return _files(repository, [choice for choice in choices(repository) if choice.group == "about"])


def excluding(files: Iterable[RemoteFile], pattern: str) -> tuple[RemoteFile, ...]:
    """`files` without those whose path begins as the regular expression `pattern` says. OptionError;
    NothingToDownload."""
    try:
        excluded = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        expected = {"en": f"a regular expression ({error})", "zh": f"正则表达式（{error}）"}
        raise OptionError("exclude-pattern", pattern, expected) from None
    kept = tuple(file for file in files if not excluded.match(file.path))
    if not kept:
        raise NothingToDownload()
    return kept


def target(repository: Repository, files: Sequence[RemoteFile]) -> Target:
    """Where `files` of `repository`, chosen from it, go.

    A GGUF file alone to the folder of models itself, a split one to a folder of its name, and all else to one named
    <user>_<repository>, with the branch unless it is main.
    """
    what = kind(repository)
    names = [_last(file.path) for file in files]
    if what != "lora" and {_group(file.path) for file in files} == {"gguf"}:
        flat = dict(zip([file.path for file in files], names, strict=True))
        sets = _sets(files)
        if len(sets) == 1 and len(files) > 1:
            return Target("models", set_name(Path(next(iter(sets)))), flat)
        if len(sets) == len(files) == len({name.casefold() for name in names}):
            return Target("models", "", flat)
    return Target(
        "loras" if what == "lora" else "models", _folder(repository), {file.path: file.path for file in files}
    )


def quantisation(path: str) -> str:
    """That of the GGUF file at `path`, by its name or else its folder's; "" if they do not say."""
    for part in reversed(path.split("/")[-2:]):
        if found := _QUANTISATION.findall(part):
            return str(found[-1]).upper()
    return ""


def _folder(repository: Repository) -> str:
    """As the original names it; a name too long for a disk is cut, and told apart by a hash."""
    branch = "" if repository.revision == "main" else "_" + repository.revision.replace("/", "_")
    name = (repository.name.replace("/", "_") + branch).rstrip(".")
    if len(name) <= _LONGEST_NAME:
        return name
    return f"{name[: _LONGEST_NAME - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def _files(repository: Repository, chosen: Iterable[Choice]) -> tuple[RemoteFile, ...]:
    chosen = list(chosen)
    for choice in chosen:
        if choice.missing:
            raise IncompleteSet(repository.name, choice.name, choice.missing)
    files = tuple(file for choice in chosen for file in choice.files)
    if not files:
        raise NothingToDownload()
    return files


def _unknown(repository: Repository, name: str) -> Choice:
    raise FileNotOnHub(repository.name, name, _nearest(name, [file.path for file in repository.files]))


def _nearest(name: str, paths: Iterable[str]) -> tuple[str, ...]:
    """The paths that are most like `name`, or end in something like it."""
    by_look: dict[str, str] = {}
    for path in paths:
        by_look.setdefault(_last(path).casefold(), path)
        by_look[path.casefold()] = path
    close = difflib.get_close_matches(name.casefold(), by_look, 2 * _NEAREST, cutoff=0.4)
    return tuple(dict.fromkeys(by_look[look] for look in close))[:_NEAREST]


def _sets(files: Iterable[RemoteFile]) -> dict[str, list[RemoteFile]]:
    """The files by name, the parts of a split one together under the first part's."""
    found: dict[str, list[RemoteFile]] = {}
    for file in files:
        found.setdefault(first_part(Path(file.path)).as_posix(), []).append(file)
    return {name: sorted(parts, key=lambda file: file.path) for name, parts in found.items()}


def _choice(name: str, parts: Sequence[RemoteFile], what: str, groups: set[str], has_model: bool) -> Choice:
    group = _group(name)
    present = {file.path for file in parts}
    lacking = (part.name for part in parts_of(Path(name)) if part.as_posix() not in present)
    missing = tuple(itertools.islice(lacking, _MOST_MISSING))
    return Choice(
        name=name,
        files=tuple(parts),
        group=group,
        ticked=not missing and _ticked(name, group, what, has_model),
        quantisation=quantisation(name) if group in ("gguf", "mmproj") else "",
        warning=_warning(group, groups),
        missing=missing,
    )


def _ticked(name: str, group: str, what: str, has_model: bool) -> bool:
    if what == "gguf":
        return False  # which of them is the user's to say; what describes it is within the file
    if group == "weights":
        return not (has_model and _last(name).startswith("consolidated"))
    return group == "about"


def _warning(group: str, groups: set[str]) -> Words | None:
    if group == "pickle":
        return PICKLE if groups & {"weights", "gguf"} else ONLY_PICKLES
    return CODE if group == "code" else None


def _group(path: str) -> str:
    name = _last(path).lower()
    if name.endswith(".gguf"):
        return "mmproj" if "mmproj" in name else "other" if "imatrix" in name else "gguf"
    for group, endings in (("weights", (".safetensors",)), ("pickle", PICKLES), ("about", ABOUT), ("code", _CODE)):
        if name.endswith(endings):
            return group
    return "other"


def _place(choice: Choice) -> tuple[int, int, str]:
    by_size = choice.size if choice.group in ("gguf", "mmproj") else 0
    return _GROUPS.index(choice.group), by_size, choice.name.casefold()


def _last(path: str) -> str:
    return path.rpartition("/")[2]


def _above(path: str) -> str:
    return path.rpartition("/")[0]
