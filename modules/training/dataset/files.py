"""The datasets in training/datasets: files of rows, files of text, and folders of texts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modules.catalog.record import natural_key
from modules.config.named_files import is_valid_name
from modules.core.errors import Words
from modules.options.option import nearest
from modules.training.dataset.errors import DatasetNotFound, UnreadableDataset
from modules.training.dataset.rows import MAX_BYTES, ROW_SUFFIXES, Row, read_rows, read_text

TEXT_SUFFIX = ".txt"


class Datasets:
    """The datasets in `folder`, which need not exist. A dataset's name is that of its file or folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Return the names of all datasets."""
        return sorted((path.name for path in self._paths() if _is_dataset(path)), key=natural_key)

    def text_names(self) -> list[str]:
        """Return the names of those that are trained as raw text."""
        return [name for name in self.names() if self.is_text(self.folder / name)]

    def path(self, name: str) -> Path:
        """Return the path of a dataset, whose name may lack its extension. Raises DatasetNotFound.

        A file of an unknown kind has a path too, so that reading it says what to do.
        """
        present = {path.name: path for path in self._paths()}
        candidates = (name, *(name + suffix for suffix in (*ROW_SUFFIXES, TEXT_SUFFIX)))
        found = next((present[candidate] for candidate in candidates if candidate in present), None)
        if found is None:
            raise DatasetNotFound(name[:80], nearest(name, present))
        return found

    def is_text(self, path: Path) -> bool:
        """Return whether a dataset is raw text."""
        return path.is_dir() or path.suffix.lower() == TEXT_SUFFIX

    def rows(self, path: Path) -> list[Row]:
        """Return the rows of a dataset. Raises UnreadableDataset."""
        return read_rows(path)

    def texts(self, path: Path) -> Iterator[str]:
        """Yield the texts of a dataset that is raw text, with Unix line breaks.

        Raises UnreadableDataset, also if they are all blank.
        """
        files = _texts_in(path) if path.is_dir() else [path]
        size, blank = 0, True
        for file in files:
            text = read_text(file).replace("\r\n", "\n")
            size, blank = size + len(text), blank and not text.strip()
            if size > MAX_BYTES:
                megabytes = MAX_BYTES // 1_000_000
                problem = {
                    "en": f"its texts have more than {megabytes} million characters",
                    "zh": f"文本总计超过 {megabytes} 百万字符",
                }
                raise UnreadableDataset(path.name, problem)
            yield text
        if blank:
            raise UnreadableDataset(path.name, _EMPTY_FOLDER if path.is_dir() else _EMPTY_FILE)

    def _paths(self) -> list[Path]:
        try:
            return [path for path in self.folder.iterdir() if is_valid_name(path.name)]
        except OSError:
            return []


_EMPTY_FILE: Words = {"en": "it has no text", "zh": "没有文本"}
_EMPTY_FOLDER: Words = {"en": "it has no .txt files with text", "zh": "其中没有含文本的 .txt 文件"}


def _is_dataset(path: Path) -> bool:
    if path.is_dir():
        return bool(_texts_in(path))
    return path.is_file() and path.suffix.lower() in (*ROW_SUFFIXES, TEXT_SUFFIX)


def _texts_in(folder: Path) -> list[Path]:
    """Return the text files of a folder in natural order."""
    try:
        files = [path for path in folder.iterdir() if path.suffix.lower() == TEXT_SUFFIX and path.is_file()]
    except OSError:
        return []
    return sorted(files, key=lambda path: natural_key(path.name))
