"""The file that stands for a model on a server: `<name>.server.yaml` in the folder of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from modules.core.errors import OptionError
from modules.formats.flat_yaml import read_flat
from modules.options.load_remote import SERVER_CA, SERVER_KEY_ENV, SERVER_KIND, SERVER_MODEL, SERVER_URL
from modules.options.option import nearest
from modules.system.format_errors import FormatError, as_model_problem, quoted

SUFFIX = ".server.yaml"
FORMAT = "server"
_OPTIONS = {"url": SERVER_URL, "model": SERVER_MODEL, "kind": SERVER_KIND, "key_env": SERVER_KEY_ENV, "ca": SERVER_CA}
_DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class ServerFile:
    """The content of the file: values of the load options of Remote, of which only the address is needed."""

    url: str
    model: str = ""
    kind: str = str(SERVER_KIND.default)
    key_env: str = ""
    ca: str = ""

    @staticmethod
    def parse(values: Mapping[str, object]) -> ServerFile:
        """Return the file with these values. Raises OptionError for one that is missing or not valid."""
        parsed = {key: str(option.parse(values.get(key, option.default))) for key, option in _OPTIONS.items()}
        return ServerFile(**parsed | {"url": checked_url(parsed["url"])})

    def load_options(self) -> dict[str, str]:
        """Return the load options that follow from the file."""
        return {_OPTIONS[key].key: value for key, value in self.content().items()}

    def content(self) -> dict[str, str]:
        """Return what is written into a file: the values that differ from the defaults."""
        values = asdict(self)
        return {key: values[key] for key, option in _OPTIONS.items() if values[key] != option.default}


def read_server(path: Path) -> ServerFile:
    """Read a file. Raises DamagedModel or OSError."""
    with as_model_problem(path.name):
        values = read_flat(path)
        for key in values:
            if key not in _OPTIONS:
                guess = nearest(key, _OPTIONS)
                en, zh = (f" Did you mean {guess}?", f"是否想写 {guess}？") if guess else ("", "")
                raise FormatError(f"unknown key {quoted(key)}.{en}", f"未知的键{quoted(key, 'zh')}。{zh}")
        try:
            return ServerFile.parse(values)
        except OptionError as error:
            key = next(key for key, option in _OPTIONS.items() if option.key == error.option)
            raise FormatError(
                f"{key}: expected {error.expected['en']}.", f"{key}：应为{error.expected['zh']}。"
            ) from None


def checked_url(url: str) -> str:
    """Return an address as it is kept: without "/" at its end, and without "/v1". Raises OptionError."""
    checked = str(SERVER_URL.parse(url))
    try:
        port = urlsplit(checked).port
    except ValueError:  # above 65535
        port = 0
    if not checked or port == 0:
        raise OptionError(SERVER_URL.key, checked, SERVER_URL.expected())
    return checked.rstrip("/").removesuffix("/v1").rstrip("/")


def is_address(text: str) -> bool:
    """Whether a text is the address of a server."""
    try:
        return bool(checked_url(text))
    except OptionError:
        return False


def origin(url: str) -> str:
    """Return scheme, host and port of an address, as keys belong to them."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return f"{parts.scheme}://{host}:{parts.port or _DEFAULT_PORTS[parts.scheme]}"
