"""The secrets that let somebody in: API keys and logins, from flags, files or the environment."""

from __future__ import annotations

import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.config.flags import SERVER, Flags, logins
from modules.core.errors import CommandLineError

KEY_VARIABLE = "TEXT_STUDIO_API_KEY"
"""Not OPENAI_API_KEY: many users have that one set for OpenAI's own service, which would lock them out here."""
LOGIN_VARIABLE = "TEXT_STUDIO_AUTH"

Login = tuple[str, str]


@dataclass(frozen=True)
class Credentials:
    """API keys, and logins as user and password. Everybody may do everything if there are neither."""

    keys: tuple[str, ...] = ()
    logins: tuple[Login, ...] = ()

    @classmethod
    def read(cls, flags: Flags, environment: Mapping[str, str]) -> Credentials:
        """Return the credentials that a server is started with.

        A flag comes before a file, and both before a variable of the environment, which is visible to fewer people than
        a command line. Raises CommandLineError if a file cannot be read or holds nothing, and OptionError for a login
        without a colon: the server must not start unprotected.
        """
        key_file, login_file = flags.text("api_key_file"), flags.text("gradio_auth_path")
        keys = [flags.text("api_key")]
        if not keys[0]:
            keys = _lines(key_file, "--api-key-file") if key_file else [environment.get(KEY_VARIABLE, "")]
        pairs = flags.text("gradio_auth")
        if not pairs:
            pairs = (
                ",".join(_lines(login_file, "--gradio-auth-path"))
                if login_file
                else environment.get(LOGIN_VARIABLE, "")
            )
        pairs = str(SERVER["gradio_auth"].parse(pairs))
        return cls(tuple(key for key in keys if key), tuple(logins(pairs)))

    @property
    def required(self) -> bool:
        return bool(self.keys or self.logins)

    def accept_key(self, key: bytes) -> bool:
        return _matches(key, (accepted.encode() for accepted in self.keys))

    def accept_login(self, user: str, password: str) -> bool:
        sent = f"{user}:{password}".encode("utf-8", "surrogatepass")
        return _matches(sent, (":".join(login).encode() for login in self.logins))


def _matches(sent: bytes, accepted: Iterable[bytes]) -> bool:
    """Make all comparisons, each in constant time, so that timing reveals nothing about the secret."""
    matches = [hmac.compare_digest(sent, secret) for secret in accepted]
    return any(matches)


def _lines(file: str, flag: str) -> list[str]:
    """Return the lines of a file that are not blank."""
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "UTF-8"
        raise _error(flag, file, f"cannot be read ({reason})", f"无法读取（{reason}）") from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise _error(flag, file, "is empty", "是空文件")
    return lines


def _error(flag: str, file: str, en: str, zh: str) -> CommandLineError:
    return CommandLineError({"en": f"{flag}: {file} {en}.", "zh": f"{flag}：{file} {zh}。"})
