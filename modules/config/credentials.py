"""The secrets that let somebody in: API keys and logins, from flags, files or the environment."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modules.config.flags import SERVER, Flags, logins
from modules.core.errors import CommandLineError

KEY_VARIABLE = "TEXT_STUDIO_API_KEY"
"""Not OPENAI_API_KEY: many users have that one set for OpenAI's own service, which would lock them out here."""
LOGIN_VARIABLE = "TEXT_STUDIO_AUTH"

Login = tuple[str, str]

ROLES = ("use", "owner")
"""A key of the first role may be used for answers, but not to load, unload or download models."""


@dataclass(frozen=True)
class ApiKey:
    """A key of the API. `name` says whose it is, "" if nobody has said so."""

    secret: str
    name: str = ""
    is_owner: bool = True

    @classmethod
    def parse(cls, text: str) -> ApiKey:
        """Return the key of a text: KEY, NAME:KEY, or NAME:ROLE:KEY with one of ROLES.

        A key with a colon needs a name before it.
        """
        name, colon, rest = text.partition(":")
        if not colon:
            return cls(text)
        role, colon, secret = rest.partition(":")
        if colon and role in ROLES:
            return cls(secret, name, role == ROLES[1])
        return cls(rest, name)


@dataclass(frozen=True)
class Credentials:
    """API keys, and logins as user and password. Everybody may do everything if there are neither."""

    keys: tuple[ApiKey, ...] = ()
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
        parsed = tuple(ApiKey.parse(key) for key in keys if key)
        if nameless := next((key.name for key in parsed if not key.secret), None):
            raise CommandLineError(
                {
                    "en": f"The API key of {nameless} is empty: write NAME:KEY or NAME:ROLE:KEY.",
                    "zh": f"{nameless} 的 API 密钥为空：请写成 名称:密钥 或 名称:角色:密钥。",
                }
            )
        return cls(parsed, tuple(logins(pairs)))

    @property
    def required(self) -> bool:
        return bool(self.keys or self.logins)

    def key_of(self, secret: bytes) -> ApiKey | None:
        """Return the API key with that secret, None if there is none."""
        # All comparisons are made, each in constant time, so that timing reveals nothing about the secrets.
        found = [key for key in self.keys if hmac.compare_digest(secret, key.secret.encode())]
        return found[0] if found else None

    def accept_login(self, user: str, password: str) -> bool:
        sent = f"{user}:{password}".encode("utf-8", "surrogatepass")
        matches = [hmac.compare_digest(sent, ":".join(login).encode()) for login in self.logins]
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
