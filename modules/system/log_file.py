"""The log file: without it, a message in the terminal, and the program runs on."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from pathlib import Path

from modules.core.errors import Words
from modules.system.redaction import redact
from modules.system.terminal import terminal_language

_BYTES, _OLD_FILES = 5_000_000, 2


class LogFile(logging.handlers.RotatingFileHandler):
    """Log to a file that is renamed when it is large. Raises OSError if the file cannot be opened.

    When the disk is full, the records are lost; the terminal has them. What looks like a secret is left out.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(exist_ok=True)
        super().__init__(path, "a", _BYTES, _OLD_FILES, encoding="utf-8")
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._failing = False

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._failing:
            self._failing = True  # the warning below comes here, too
            logging.getLogger(__name__).warning("%s", unwritable(Path(self.baseFilename), error))


def unwritable(path: Path, error: OSError) -> str:
    """Return a sentence, in the terminal's language, on a log file that cannot be written."""
    reason = error.strerror or type(error).__name__
    words: Words = {
        "en": f"The log {path} cannot be written ({reason}); messages appear here only.",
        "zh": f"无法写入日志 {path}（{reason}），消息只显示在此处。",
    }
    return words[terminal_language()]
