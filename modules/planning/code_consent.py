"""Permission to run Python code that comes with a model: only the command line gives it, for files as they are."""

from __future__ import annotations

from modules.catalog.record import ModelRecord
from modules.config.trusted_code import TrustedCode, require_unchanged
from modules.core.errors import Unsupported
from modules.formats.remote_code import hash_python_files


class CodeConsent:
    """`allowed` is whether the program was started with `--trust-remote-code`."""

    def __init__(self, trusted: TrustedCode, allowed: bool) -> None:
        self.allowed = allowed
        self._trusted = trusted

    def require_allowed(self) -> None:
        """Raise Unsupported unless code of models may run at all."""
        if not self.allowed:
            raise Unsupported(
                {
                    "en": "trust_remote_code runs code that comes with the model; it has to be allowed at start, "
                    "by the flag --trust-remote-code.",
                    "zh": "trust_remote_code 会运行模型自带的代码，只能在启动时用参数 --trust-remote-code 允许。",
                }
            )

    def check(self, record: ModelRecord) -> None:
        """Raise CodeChanged if the model's code is not what the user agreed to.

        The first call for a model agrees to its code as it is. Raises SettingsError if the record of consent is
        damaged.
        """
        self._trusted.check(record.name, hash_python_files(record.path))

    def agree(self, record: ModelRecord, seen: object = None) -> None:
        """Agree to the model's code as it is now.

        `seen` are the hashes the user was shown, as they came from a browser. Raises CodeChanged if there is other code
        than that, Unsupported if code of models may not run at all.
        """
        self.require_allowed()
        code = hash_python_files(record.path)
        if seen is not None:
            require_unchanged(record.name, seen, code)
        self._trusted.agree(record.name, code)
