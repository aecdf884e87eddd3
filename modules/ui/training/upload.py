"""Put a file from the browser into the folder of datasets."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request

from modules.config.named_files import is_valid_name
from modules.system.atomic_write import replace_file
from modules.training.dataset.rows import MAX_BYTES
from modules.training.page_errors import DATA_SUFFIXES, BadUpload

_MOST_OF_ONE_NAME = 1000
"""Files of one name, which are numbered."""


async def bounded_body(request: Request) -> bytes:
    """Return the body of a request. Raises BadUpload as soon as it has more than MAX_BYTES."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BYTES:
            raise BadUpload()
    return bytes(body)


def add_dataset(folder: Path, name: str, content: bytes) -> str:
    """Write a dataset and return its name, which has a number if there is another file of that name.

    Raises BadUpload, or OSError.
    """
    name = name.replace("\\", "/").rpartition("/")[2].strip()
    path = Path(name)
    if path.suffix.lower() not in DATA_SUFFIXES or not is_valid_name(name) or len(content) > MAX_BYTES:
        raise BadUpload()
    folder.mkdir(parents=True, exist_ok=True)
    names = (name, *(f"{path.stem} ({number}){path.suffix}" for number in range(2, _MOST_OF_ONE_NAME + 1)))
    for candidate in names:
        target = folder / candidate
        if not target.exists():
            replace_file(target, content)
            return candidate
        if target.is_file() and target.read_bytes() == content:
            return candidate
    raise BadUpload()
