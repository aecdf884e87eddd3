"""Notes on options of Remote that have no effect, and on what others could read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from modules.core.events import Note
from modules.engines.remote.arguments import Environment, Options, is_encrypted, is_this_machine, key_source
from modules.formats.server_keys import KEYS_FILE, is_key, is_readable_by_others


def notes(path: Path, options: Options, environment: Environment) -> Iterator[Note]:
    url, source = str(options["server_url"]), key_source(path, options)
    if not is_encrypted(url) and not is_this_machine(url):
        yield _unencrypted(bool(source))
    if source == KEYS_FILE and is_readable_by_others(path.parent):
        yield Note(
            "server_key_env",
            {
                "en": f"Other users of this machine can read models/{KEYS_FILE}. To change that: chmod 600.",
                "zh": f"本机其他用户可以读取 models/{KEYS_FILE}，可用 chmod 600 收回权限。",
            },
        )
    if source and source != KEYS_FILE and not is_key(environment.get(source, "").strip()):
        yield Note(
            "server_key_env",
            {
                "en": f"The environment variable {source} holds no key: start this program with it.",
                "zh": f"环境变量 {source} 中没有密钥：请在设置该变量后启动本程序。",
            },
        )
    if options["server_ca"] and not is_encrypted(url):
        yield Note("server_ca", {"en": "No effect: the address is not https.", "zh": "无效：该地址不是 https。"})


def _unencrypted(has_key: bool) -> Note:
    en, zh = (", and the key", "提示词、回复和密钥") if has_key else ("", "提示词和回复")
    return Note(
        "server_url",
        {
            "en": f"Not encrypted: others on the network can read prompts and answers{en}. Use https, or a tunnel.",
            "zh": f"未加密：网络中的其他人可以读取{zh}。请使用 https 或隧道。",
        },
    )
