"""What a repository has, from the first of several mirrors that can say."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modules.download_errors import DownloadError, Stopped
from modules.job import Mirror
from modules.remote import Repository


def listed(mirrors: Callable[[], Sequence[Mirror]], repo: str, revision: str) -> Repository:
    """Ask the mirrors one after the other, each once, and let go of them. The DownloadError that says most if none
    can."""
    asked, faults = list(mirrors()), list[DownloadError]()
    try:
        for mirror in asked:
            try:
                return mirror.repository(repo, revision)
            except Stopped:
                raise
            except DownloadError as error:
                faults.append(error)
    finally:
        for mirror in asked:
            mirror.close()
    raise min(faults, key=lambda error: error.passing)
