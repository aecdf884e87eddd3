"""Put a file from the browser into the folder of datasets."""

from __future__ import annotations

from pathlib import Path

from starlette.requests import Request

from modules.config.named_files import is_valid_name
from modules.core.errors import Words
from modules.system.atomic_write import replace_file
from modules.training.dataset.files import TEXT_SUFFIX
from modules.training.dataset.rows import MAX_BYTES, ROW_SUFFIXES, other_kind
from modules.training.export import NAME
from modules.training.page_errors import BadUpload

_MOST_OF_ONE_NAME = 1000
"""Files of one name, which are numbered."""
_BAD_NAME: Words = {
    "en": f"its name cannot be used; rename it to {NAME['en']}",
    "zh": f"其文件名无法使用，请改为{NAME['zh']}",
}
_TOO_LARGE: Words = {
    "en": f"it has more than {MAX_BYTES // 1_000_000} MB",
    "zh": f"超过 {MAX_BYTES // 1_000_000} MB",
}
_TOO_MANY: Words = {
    "en": f"there are {_MOST_OF_ONE_NAME} other files of that name",
    "zh": f"已有 {_MOST_OF_ONE_NAME} 个同名文件",
}


async def bounded_body(request: Request, name: str) -> bytes:
    """Return the body of a request, the file `name`. Raises BadUpload as soon as it has more than MAX_BYTES."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > MAX_BYTES:
            raise BadUpload(name, _TOO_LARGE)
    return bytes(body)


def add_dataset(folder: Path, name: str, content: bytes) -> str:
    """Write a dataset and return its name, which has a number if there is another file of that name.

    Raises BadUpload, or OSError.
    """
    name = name.replace("\\", "/").rpartition("/")[2].strip()
    path = Path(name)
    if path.suffix.lower() not in (*ROW_SUFFIXES, TEXT_SUFFIX):
        raise BadUpload(name, other_kind(path))
    if len(content) > MAX_BYTES:
        raise BadUpload(name, _TOO_LARGE)
    names = (name, *(f"{path.stem} ({number}){path.suffix}" for number in range(2, _MOST_OF_ONE_NAME + 1)))
    for candidate in names:
        if not is_valid_name(candidate):  # also one that is too long only with its number
            raise BadUpload(name, _BAD_NAME)
        folder.mkdir(parents=True, exist_ok=True)
        target = folder / candidate
        if not target.exists():
            replace_file(target, content)
            return candidate
        if target.is_file() and target.read_bytes() == content:
            return candidate
    raise BadUpload(name, _TOO_MANY)
