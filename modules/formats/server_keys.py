"""The keys of servers: from an environment variable, or `.keys.yaml` in the folder of models, by the server's origin.

A key belongs to an origin (scheme, host, port), so that it is never sent to another one.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from pathlib import Path

from modules.core.errors import OptionError
from modules.formats.flat_yaml import read_flat
from modules.formats.server_file import is_address, origin
from modules.options.load_remote import SERVER_KEY_ENV
from modules.system.format_errors import FormatError, as_model_problem

KEYS_FILE = ".keys.yaml"
_KEY = re.compile(r"[\x21-\x7e]{1,4096}")


def find_key(folder: Path, url: str, variable: str, environment: Mapping[str, str]) -> str:
    """Return the key for the server at `url`: that of `variable` if one is named, else that of the file; "" for none.

    Raises OptionError for a variable without a key, and DamagedModel for a file that cannot be read.
    """
    if not variable:
        return read_keys(folder).get(origin(url), "")
    key = environment.get(variable, "").strip()
    if not is_key(key):
        raise OptionError(
            SERVER_KEY_ENV.key,
            variable,
            {
                "en": "an environment variable of this program that holds a key of visible ASCII characters",
                "zh": "本程序的环境变量中已设置、且由可见 ASCII 字符组成的密钥",
            },
        )
    return key


def read_keys(folder: Path) -> dict[str, str]:
    """Return the keys of the file by origin; those that no server could have given are left out.

    Raises DamagedModel for a file that cannot be read.
    """
    with as_model_problem(KEYS_FILE):
        try:
            keys = read_flat(folder / KEYS_FILE)
        except FileNotFoundError:
            return {}
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise FormatError(f"the file cannot be read ({reason}).", f"无法读取该文件（{reason}）。") from None
    return {origin(server): key for server, key in keys.items() if is_address(server) and is_key(key)}


def is_key(text: str) -> bool:
    """Whether a text can be sent as a key."""
    return _KEY.fullmatch(text) is not None


def is_readable_by_others(folder: Path) -> bool:
    """Whether other users of this machine can read the file."""
    try:
        mode = (folder / KEYS_FILE).stat().st_mode
    except OSError:
        return False
    return bool(mode & (stat.S_IRGRP | stat.S_IROTH))
