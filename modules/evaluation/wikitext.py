"""Fetch the test part of WikiText-2 (CC BY-SA) through the hub's mirrors; it is not shipped."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import tempfile
import zipfile
from pathlib import Path

from modules.evaluation.errors import ResultsNotSaved
from modules.hub.errors import DownloadError, NotAHub
from modules.hub.mirrors import Mirrors
from modules.hub.repository import RemoteFile, Repository

NAME = "wikitext-2-test.txt"
_ARCHIVE = RemoteFile(
    "wikitext-2-raw-v1.zip", 4_721_645, sha256="ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11"
)
_COMMIT = "927b3642933080f1b0e811e2f916e14c292992f9"
REPOSITORY = Repository("datasets/ggml-org/ci", _COMMIT, _COMMIT, (_ARCHIVE,))
_MEMBER, _MEMBER_BYTES = "wikitext-2-raw/wiki.test.raw", 1_290_590


def fetch_wikitext(mirrors: Mirrors, folder: Path, repository: Repository = REPOSITORY) -> Path:
    """Download the archive, check it and put its test part into `folder`. Return the path of the new file.

    Raises DownloadError, or ResultsNotSaved if the disk refuses.
    """
    target = folder / NAME
    content = _member(_download(mirrors, repository), mirrors)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(prefix=f".{NAME}.", dir=folder)
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        finally:
            Path(temporary).unlink(missing_ok=True)
    except OSError as error:
        raise ResultsNotSaved(str(target), error.strerror or str(error)) from error
    return target


def _download(mirrors: Mirrors, repository: Repository) -> bytes:
    """Return the archive from the first mirror that has it unchanged."""
    failures: list[DownloadError] = []
    (archive,) = repository.files
    for client in mirrors.open_clients():
        with contextlib.closing(client), contextlib.closing(client.source(repository)) as source:
            try:
                with contextlib.closing(source.open(archive, 0, archive.size)) as body:
                    content = b"".join(body.chunks())
                if hashlib.sha256(content).hexdigest() == archive.sha256:
                    return content
                failures.append(NotAHub(client.host, {"en": "wrong checksum", "zh": "校验值不符"}))
            except DownloadError as error:
                failures.append(error)
    permanent = [error for error in failures if not error.transient]
    raise [*permanent, *failures][0]


def _member(archive: bytes, mirrors: Mirrors) -> bytes:
    """Return the test part. At most its known size is unpacked."""
    host = mirrors.endpoints[0]
    try:
        with zipfile.ZipFile(io.BytesIO(archive)).open(_MEMBER) as file:
            content = file.read(_MEMBER_BYTES + 1)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise NotAHub(host, {"en": f"the archive is damaged ({error})", "zh": f"压缩包已损坏（{error}）"}) from error
    if len(content) > _MEMBER_BYTES:
        raise NotAHub(host, {"en": "the archive is damaged", "zh": "压缩包已损坏"})
    return content
