"""The model of `--server-url`: a server that is used for this run, without a file in the folder of models."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from modules.catalog.record import ModelRecord
from modules.catalog.record_reader import server_record
from modules.config.flags import Flags
from modules.core.errors import CommandLineError, Words
from modules.formats.server_file import SUFFIX, ServerFile
from modules.options.load_remote import SERVER_CA, SERVER_KEY_ENV, SERVER_KIND, SERVER_MODEL, SERVER_URL

_FILE_KEYS = {
    "url": SERVER_URL.key,
    "model": SERVER_MODEL.key,
    "kind": SERVER_KIND.key,
    "key_env": SERVER_KEY_ENV.key,
    "ca": SERVER_CA.key,
}
_NAME_FOR_GUESTS = "server"
"""The name of a model if only its address was given, which guests must not see."""
_TWO_MODELS: Words = {
    "en": "--server-url and --model name two models. Give one of them.",
    "zh": "--server-url 与 --model 指定了两个模型，请只保留一个。",
}
_WITHOUT_SERVER: Words = {
    "en": "{flag} needs --server-url or --model, to say which server is meant.",
    "zh": "{flag} 需要与 --server-url 或 --model 一起使用，以指明是哪个服务器。",
}


def check_server_flags(flags: Flags) -> None:
    """Raise CommandLineError for flags that name two models, or that would apply to servers that nobody has named.

    Flags apply to every model if they name none, and a key must not be sent to every server.
    """
    if SERVER_URL.key in flags.load and flags.text("model"):
        raise CommandLineError(_TWO_MODELS)
    if SERVER_URL.key in flags.load or flags.text("model"):
        return
    for option in (SERVER_MODEL, SERVER_KEY_ENV, SERVER_CA):
        if option.key in flags.load:
            flag = f"--{option.flag}"
            raise CommandLineError({language: text.format(flag=flag) for language, text in _WITHOUT_SERVER.items()})


def flagged_server(flags: Flags, folder: Path, names_host: bool = True) -> ModelRecord | None:
    """Return the model of `--server-url`, None without it. Its key may be in the file of keys in `folder`.

    Its name says where it is unless `names_host` is off. Raises OptionError for an address that is none.
    """
    if SERVER_URL.key not in flags.load:
        return None
    server = ServerFile.parse({key: flags.load[option] for key, option in _FILE_KEYS.items() if option in flags.load})
    host = urlsplit(server.url).netloc
    name = f"{server.model}@{host}" if server.model else host
    if not names_host:
        name = server.model or _NAME_FOR_GUESTS
    return server_record(name, folder / f"{name.replace('/', '_')}{SUFFIX}", server)
