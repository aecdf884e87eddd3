"""Turn what a user asked for into a download: which files, where they go, and whether their checksum is the known one.

The page, the API and the command line all select files here.
"""

from __future__ import annotations

import dataclasses
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modules.core.errors import Unsupported
from modules.downloads.checksum import check_listed_sha256
from modules.downloads.errors import BadDigest
from modules.downloads.install_files import InstallTarget
from modules.downloads.manager import DownloadManager
from modules.downloads.record import DownloadSpec
from modules.hub import file_choices
from modules.hub.file_choices import ONLY_PICKLES_WARNING, Choice
from modules.hub.repo_id import RepoAddress
from modules.hub.repository import Kind, RemoteFile, Repository

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileCriteria:
    """Which files of a repository to download. The first criterion that is set decides.

    1. `files`: paths or unique names. 2. `choices`: names of choices as ticked on the page. 3. The file that the
    address names. 4. `metadata_only`: no weights. 5. The preselected choices; if `unattended`, for a repository of GGUF
    files the recommended one, and for one that offers only pickles an error, unless `allow_pickles`.

    Paths that match the regular expression `exclude` from their beginning are dropped in any case.
    """

    files: Sequence[str] = ()
    choices: Sequence[str] | None = None
    metadata_only: bool = False
    unattended: bool = False
    allow_pickles: bool = False
    exclude: str = ""


@dataclass(frozen=True)
class Selection:
    """Selected `files` of `repository`. `kind` overrides what their names say about their folder."""

    repository: Repository
    files: tuple[RemoteFile, ...]
    kind: Kind | None = None

    @property
    def spec(self) -> DownloadSpec:
        """The download of these files to their default folder."""
        destination = file_choices.destination(self.repository, self.files)
        default_kind: Kind = "lora" if destination.root == "loras" else "model"
        return DownloadSpec(
            repo=self.repository.name,
            revision=self.repository.revision,
            target=destination.folder,
            files=tuple(file.path for file in self.files),
            kind=self.kind or default_kind,
            flat=any(new_path != path for path, new_path in destination.paths.items()),
        )

    @property
    def size(self) -> int:
        """Total size in bytes."""
        return sum(file.size for file in self.files)


def select_files(repository: Repository, address: RepoAddress, criteria: FileCriteria) -> Selection:
    """Select the files of `repository`, which `address` names, by `criteria`.

    Raises FileNotOnHub, IncompleteSet, NothingToDownload, OptionError for `exclude` or a missing file name, or
    Unsupported for a repository of pickles only, and for GGUF files together with a LoRA.
    """
    files = _select(repository, address, criteria)
    files = file_choices.exclude_files(files, criteria.exclude) if criteria.exclude else files
    file_choices.check_one_folder(files)
    return Selection(repository, files)


def _select(repository: Repository, address: RepoAddress, criteria: FileCriteria) -> tuple[RemoteFile, ...]:
    names = criteria.files
    if not names and criteria.choices is None and address.file:
        names = (address.file,)
    if names:
        return tuple(dict.fromkeys(file for name in names for file in file_choices.find_file(repository, name)))
    if criteria.choices is not None:
        return file_choices.select_choices(repository, criteria.choices)
    if criteria.metadata_only:
        return file_choices.select_metadata(repository)
    return _select_unattended(repository, criteria) if criteria.unattended else file_choices.select_choices(repository)


def _select_unattended(repository: Repository, criteria: FileCriteria) -> tuple[RemoteFile, ...]:
    if file_choices.repository_kind(repository) == "gguf":
        return file_choices.select_recommended_gguf(repository)
    choices = file_choices.list_choices(repository)
    names = [choice.name for choice in choices if choice.preselected]
    if any(choice.warning is ONLY_PICKLES_WARNING for choice in choices):
        if not criteria.allow_pickles:
            raise Unsupported({key: f"{text} (--allow-pickles)" for key, text in ONLY_PICKLES_WARNING.items()})
        names += [choice.name for choice in choices if choice.group == "pickle"]
    return file_choices.select_choices(repository, names)


def preselected_choices(repository: Repository, address: RepoAddress) -> frozenset[str]:
    """Return the names of the choices to select at first: those of the address's file only, if it names one.

    Of GGUF files that is one quantization, with the vision part of the model if there is one. Raises FileNotOnHub or
    IncompleteSet.
    """
    choices = file_choices.list_choices(repository)
    if not address.file:
        selected = {choice.name for choice in choices if choice.preselected}
        gguf = file_choices.preselected_gguf(choices) if file_choices.repository_kind(repository) == "gguf" else None
        if gguf is not None:
            projector = file_choices.preselected_projector(choices)
            selected |= {choice.name for choice in (gguf, projector) if choice}
        return frozenset(selected)
    files = set(file_choices.find_file(repository, address.file))
    return frozenset(choice.name for choice in choices if files.intersection(choice.files))


def pin_checksum(selection: Selection, sha256: str) -> DownloadSpec:
    """Return the download of `selection`, whose only large file must have the hash `sha256` ("" for any).

    The download is pinned to the listed commit, so that no later one can replace it. The job compares again, because it
    asks for the list anew and a mirror may answer differently by then. Raises BadDigest, DigestUnlisted,
    DigestAmbiguous or DigestDiffers.
    """
    if not sha256:
        return selection.spec
    if not _SHA256.fullmatch(sha256):
        raise BadDigest(sha256[:80])
    check_listed_sha256(selection.files, sha256)
    return dataclasses.replace(selection.spec, revision=selection.repository.commit, sha256=sha256)


# -- what is on the disk already ---------------------------------------------------------------------------------------


def missing_files(downloads: DownloadManager, selection: Selection) -> tuple[RemoteFile, ...]:
    """Return the selected files that are not present with their size; hashes are checked by the download."""
    target = downloads.install_target(selection.spec)
    return tuple(file for file in selection.files if not _is_present(target, file))


def replaced_files(downloads: DownloadManager, selection: Selection) -> tuple[RemoteFile, ...]:
    """Return the selected files in whose place there is another file, judging by size, which the download replaces."""
    target = downloads.install_target(selection.spec)
    missing = missing_files(downloads, selection)
    return tuple(file for file in missing if (target.root / target.path_in_root(file.path)).is_file())


def present_choices(
    downloads: DownloadManager, repository: Repository, choices: Iterable[Choice], kind: Kind | None = None
) -> frozenset[str]:
    """Return the names of the choices whose files are present where each alone, as of `kind`, would go."""
    # GGUF files have targets of their own; all other choices share one folder.
    others = tuple(file for file in repository.files if not file.path.lower().endswith(".gguf"))
    shared_target = None
    if file_choices.repository_kind(repository) != "gguf":
        shared_target = downloads.install_target(Selection(repository, others or repository.files).spec)
    present = set()
    for choice in choices:
        alone = dataclasses.replace(repository, files=choice.files)
        shared = None if choice.group == "gguf" else shared_target
        target = shared or downloads.install_target(Selection(alone, choice.files, kind).spec)
        if not choice.missing and all(_is_present(target, file) for file in choice.files):
            present.add(choice.name)
    return frozenset(present)


def _is_present(target: InstallTarget, file: RemoteFile) -> bool:
    try:
        stats = (target.root / target.path_in_root(file.path)).stat()
    except OSError:
        return False
    return stat.S_ISREG(stats.st_mode) and stats.st_size == file.size
