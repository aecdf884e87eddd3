"""From what a person typed and ticked to a download: which files, where they go, whether they are the right ones."""

from __future__ import annotations

import dataclasses
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modules.downloads.checksum import confirm
from modules.downloads.install_files import Place
from modules.downloads.manager import Downloads
from modules.downloads.record import Wanted
from modules.hub import file_choices
from modules.hub.errors import BadDigest
from modules.hub.file_choices import Choice
from modules.hub.repo_id import Address
from modules.hub.repository import Kind, RemoteFile, Repository

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Chosen:
    """`files` of `repository`, and their download: to the folder of `kind`, if their names do not say all."""

    repository: Repository
    files: tuple[RemoteFile, ...]
    kind: Kind | None = None

    @property
    def wanted(self) -> Wanted:
        return wanted(self.repository, self.files, self.kind)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(file.size for file in self.files)


def wanted(repository: Repository, files: Sequence[RemoteFile], kind: Kind | None = None) -> Wanted:
    """The download of `files` of `repository` to where they go; to the folder of that `kind`, whatever they look like,
    if there is one."""
    target = file_choices.target(repository, files)
    told: Kind = "lora" if target.root == "loras" else "model"
    flat = any(place != path for path, place in target.places.items())
    paths = tuple(file.path for file in files)
    return Wanted(repository.name, repository.revision, target.folder, paths, kind or told, flat)


def chosen(repository: Repository, address: Address, file: str = "", ticked: Sequence[str] | None = None) -> Chosen:
    """The `file` named, else what is `ticked`, else the file of the address, else what is proposed.

    FileNotOnHub, IncompleteSet, NothingToDownload.
    """
    if file:
        return Chosen(repository, file_choices.single(repository, file))
    if ticked is None and address.file:
        return Chosen(repository, file_choices.single(repository, address.file))
    return Chosen(repository, file_choices.picked(repository, ticked))


def ticked_at_first(repository: Repository, address: Address) -> frozenset[str]:
    """The names of the choices that are ticked when they are first shown: the file of the address alone, if it has
    one. FileNotOnHub, IncompleteSet."""
    known = file_choices.choices(repository)
    if not address.file:
        return frozenset(each.name for each in known if each.ticked)
    files = set(file_choices.single(repository, address.file))
    return frozenset(each.name for each in known if files.intersection(each.files))


def missing(downloads: Downloads, choice: Chosen) -> tuple[RemoteFile, ...]:
    """Those files whose places hold nothing of their size. Whether what is there is right, the download finds out."""
    place = downloads.place(choice.wanted)
    return tuple(file for file in choice.files if not _is_there(place, file))


def there(
    downloads: Downloads, repository: Repository, known: Iterable[Choice], kind: Kind | None = None
) -> frozenset[str]:
    """The names of the choices whose files are all where they would go if each were chosen alone, as of that `kind`."""
    of_models = file_choices.kind(repository) == "gguf"  # each of its own; of all else, one folder has everything
    place = None if of_models else downloads.place(Chosen(repository, repository.files).wanted)
    found = set()
    for each in known:
        alone = dataclasses.replace(repository, files=each.files)
        where = place or downloads.place(Chosen(alone, each.files, kind).wanted)
        if not each.missing and all(_is_there(where, file) for file in each.files):
            found.add(each.name)
    return frozenset(found)


def _is_there(place: Place, file: RemoteFile) -> bool:
    try:
        facts = (place.root / place.below(file.path)).stat()
    except OSError:
        return False
    return stat.S_ISREG(facts.st_mode) and facts.st_size == file.size


def pinned(choice: Chosen, digest: str) -> Wanted:
    """The download of `choice`, if its one large file has the sha256 `digest` that the user knows from elsewhere; of
    exactly the commit that was listed, so that no later one can take its place. Without a digest, any may.

    The job compares again: it asks for the list anew, and a mirror may answer otherwise by then.

    BadDigest, DigestUnlisted, DigestAmbiguous, DigestDiffers.
    """
    if not digest:
        return choice.wanted
    if not _SHA256.fullmatch(digest):
        raise BadDigest(digest[:80])
    confirm(choice.files, digest)
    return dataclasses.replace(choice.wanted, revision=choice.repository.commit, sha256=digest)
