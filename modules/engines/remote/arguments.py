"""Describe the connection that Remote makes, by its options and without the key."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from modules.core.events import Json
from modules.formats.server_file import checked_url, origin
from modules.formats.server_keys import KEYS_FILE, read_keys
from modules.options.option import Value

Options = Mapping[str, Value]
Environment = Mapping[str, str]
"""The variables of the process."""


def arguments(path: Path, options: Options, environment: Environment) -> Mapping[str, Json]:
    """Return how the server is found and asked. The key is named by its source alone."""
    return {
        "connect": {
            "url": checked_url(str(options["server_url"])),
            "kind": options["server_kind"],
            "model": options["server_model"] or None,
            "key": key_source(path, options),
            "ca": certificates(path, options) or None,
        },
        "generate": {
            "prompts": options["server_prompts"],
            "context_length": options["n_ctx"] or None,
            "at_once": options["server_streams"],
            "first_token_seconds": options["server_timeout"],
            "resume": options["resume_stream"],
        },
    }


def key_source(path: Path, options: Options) -> str | None:
    """Return where the key of the server is: the name of a variable or of the file of keys, None if there is no key."""
    if options["server_key_env"]:
        return str(options["server_key_env"])
    return KEYS_FILE if origin(str(options["server_url"])) in read_keys(path.parent) else None


def certificates(path: Path, options: Options) -> str:
    """Return the file of certificates; a relative path counts from the folder of models. "" for those of the system."""
    file = str(options["server_ca"])
    return str(path.parent / Path(file).expanduser()) if file else ""


def is_encrypted(url: str) -> bool:
    return url.startswith("https:")


def is_this_machine(url: str) -> bool:
    """Whether the address leads nowhere else: a loopback address, or localhost."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
