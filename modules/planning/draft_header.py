"""The header of the draft model that load options name, for the estimate of memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.core.errors import WebUIError
from modules.engines.llamacpp.draft_arguments import draft_path
from modules.formats.gguf_header import GgufHeader, read_header
from modules.options.option import Value


def with_draft_header(record: ModelRecord, options: Mapping[str, Value]) -> ModelRecord:
    """Return the record of a GGUF model, whose header knows that of its draft model if `options` name one.

    One that cannot be read counts as none: loading will say so.
    """
    path = draft_path(record.path, options)
    if record.header is None or path is None:
        return record
    try:
        status = path.stat()
        draft = _read(path, status.st_size, status.st_mtime_ns)
    except (OSError, WebUIError):
        return record
    header = dataclasses.replace(record.header, drafts={str(options["model_draft"]): draft})
    return dataclasses.replace(record, header=header)


@lru_cache(maxsize=4)
def _read(path: Path, size: int, modified: int) -> GgufHeader:
    """Read the header of a file. Its size and time tell when it is another one."""
    return read_header(path)
