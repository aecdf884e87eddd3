"""Write the files of models on servers, and the keys of servers, in the folder of models."""

from __future__ import annotations

import os
from pathlib import Path

from ruamel.yaml.comments import CommentedMap

from modules.config.named_files import VALID_NAME, is_valid_name
from modules.config.yaml_file import YamlFile, to_yaml
from modules.core.errors import DamagedModel, NameTaken, OptionError, SettingsError, Words, both
from modules.formats.server_file import SUFFIX, ServerFile, origin, read_server
from modules.formats.server_keys import KEYS_FILE, is_key, read_keys

_KEPT = ("key_env", "ca")
"""Keys of a file that only people write."""
_KEY: Words = {"en": "visible ASCII characters without spaces", "zh": "不含空格的可见 ASCII 字符"}


class ServerFiles:
    """Owner of `<name>.server.yaml` and `.keys.yaml` in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save(self, name: str, server: ServerFile, key: str = "") -> str:
        """Write the file of a model, and the key of its server if there is one; return the model's name.

        A file of that name is changed if it is for the same server; its comments, and the keys that only people write,
        stay. Raises OptionError for an invalid name, NameTaken, and what `save_key` raises.
        """
        if not is_valid_name(name):
            raise OptionError("name", name[:80], VALID_NAME)
        path = self._folder / f"{name}{SUFFIX}"
        if os.path.lexists(path) and not _is_for(path, server):
            raise NameTaken(path.name)
        if key:
            self.save_key(server.url, key)

        def edit(content: CommentedMap) -> None:
            for key in [key for key in content if key not in _KEPT]:
                if key not in server.content():
                    del content[key]
            for key, value in server.content().items():
                content[key] = to_yaml(value)

        YamlFile(path).update(edit)
        return path.name

    def save_key(self, url: str, key: str) -> None:
        """Keep the key of the server at `url`, in a file that only this user can read.

        Raises OptionError for what is no key, DamagedModel for a damaged file, SettingsError if the disk fails.
        """
        if not is_key(key):
            raise OptionError("key", "•••", _KEY)
        read_keys(self._folder)
        path = self._folder / KEYS_FILE
        try:
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
            path.chmod(0o600)
        except OSError as error:
            raise SettingsError(str(path), both(error.strerror or type(error).__name__)) from error
        YamlFile(path).update(lambda content: content.__setitem__(to_yaml(origin(url)), to_yaml(key)))

    def key(self, url: str) -> str:
        """Return the key that is kept for the server at `url`, "" if there is none.

        Raises DamagedModel for a damaged file.
        """
        return read_keys(self._folder).get(origin(url), "")


def _is_for(path: Path, server: ServerFile) -> bool:
    """Whether the file at `path` is for the same server."""
    try:
        return origin(read_server(path).url) == origin(server.url)
    except (DamagedModel, OSError):
        return False
