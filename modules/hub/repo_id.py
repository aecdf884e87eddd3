"""What people type or paste to name a model on a hub: user/model, with a branch, or any link to it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from modules.core.errors import Words, both
from modules.hub.errors import BadAddress, UnsafeName
from modules.hub.safe_paths import check_path

HUBS = ("https://huggingface.co", "https://www.huggingface.co", "https://hf.co", "https://hf-mirror.com")
"""Links to these are understood whatever the endpoint."""

_LONGEST = 2000
_NAME = re.compile(r"(?=.{1,96}$)\w(?:[\w.-]*\w)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9._/-]{1,200}")
_WITH_REVISION = {"tree", "blob", "resolve", "raw", "commit"}
_OTHERS = {
    *("datasets", "spaces", "docs", "blog", "collections", "papers", "models", "tasks", "api", "learn", "posts"),
    *("organizations", "settings", "join", "login", "pricing", "enterprise", "chat", "inference", "buckets", "kernels"),
}

_NO_MODEL: Words = {"en": "This is not the address of a model.", "zh": "这不是模型仓库。"}
_NO_USER: Words = {"en": "The user's name is missing before the model's.", "zh": "模型名前缺少用户名。"}
_BAD_NAME: Words = {
    "en": "Names have letters, digits and . _ - only, up to 96, and begin and end with a letter or digit.",
    "zh": "名称只能含字母、数字和 . _ -，最多 96 个字符，且以字母或数字开头和结尾。",
}
_BAD_REVISION: Words = {
    "en": "Branches have letters, digits and . _ / - only, and do not begin with - or /.",
    "zh": "分支名只能含字母、数字和 . _ / -，且不以 - 或 / 开头。",
}
_BAD_FILE: Words = {"en": "It names no file that can be.", "zh": "其中的文件名无效。"}
_BAD_LINK: Words = {"en": "This kind of link is not known.", "zh": "无法识别这种链接。"}


@dataclass(frozen=True)
class Address:
    """`revision` is a branch, a commit or refs/pr/N; `folder` or `file` is what a link named below it, or empty."""

    repo: str
    revision: str = "main"
    folder: str = ""
    file: str = ""


def parse(text: str, endpoints: Sequence[str] = ()) -> Address:
    """What `text` names; BadAddress. Links to the `endpoints` (origins, with a prefix perhaps) are understood too."""
    shown = text.strip()
    try:
        if len(shown) > _LONGEST or any(each.isspace() or not each.isprintable() for each in shown):
            raise _Refusal(both(""))
        return _address(_path(shown, (*HUBS, *endpoints)))
    except _Refusal as refusal:
        shown = shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "…"
        raise BadAddress(shown, refusal.why) from None


class _Refusal(Exception):
    def __init__(self, why: Words) -> None:
        super().__init__(why["en"])
        self.why = why


def _path(text: str, endpoints: Sequence[str]) -> str:
    """The path of a link on its hub; of what is no link, all of it."""
    hosts = {urlsplit(endpoint).netloc.lower() for endpoint in endpoints}
    if "://" not in text:
        if text.partition("/")[0].lower() not in hosts:
            return text.split("?")[0].strip("/") if not text.startswith("/") else text
        text = f"https://{text}"
    try:
        url = urlsplit(text)
        netloc, scheme = url.netloc.lower(), url.scheme.lower()
    except ValueError:
        raise _Refusal(_BAD_LINK) from None
    if scheme not in ("http", "https"):
        raise _Refusal(_BAD_LINK)
    if netloc not in hosts:
        host = netloc.rpartition("@")[2]
        raise _Refusal({"en": f"{host} is not an endpoint that is set here.", "zh": f"{host} 不是此处设置的下载站点。"})
    prefixes = [urlsplit(endpoint).path.strip("/") for endpoint in endpoints if urlsplit(endpoint).netloc == netloc]
    path = url.path.strip("/")
    for prefix in sorted(filter(None, prefixes), key=len, reverse=True):
        if path.startswith(prefix + "/"):
            return path[len(prefix) + 1 :]
    return path


def _address(path: str) -> Address:
    first, _, rest = path.partition("/")
    if first.lower() in _OTHERS:
        raise _Refusal(_NO_MODEL)
    if not rest:
        raise _Refusal(_NO_USER if _NAME.fullmatch(re.split("[:@]", first)[0]) else both(""))
    model, *below = rest.split("/")
    name, sign, branch = re.match(r"([^:@]*)([:@]?)(.*)", model, re.DOTALL).groups()  # type: ignore[union-attr]
    repo = _repo(first, name)
    if sign:
        return Address(repo, _revision("/".join([branch, *below])))
    return _linked(repo, below) if below else Address(repo)


def _repo(user: str, name: str) -> str:
    names = (user, name)
    if any(not _NAME.fullmatch(each) or "--" in each or ".." in each for each in names) or name.endswith(".git"):
        raise _Refusal(_BAD_NAME)
    return f"{user}/{name}"


def _revision(text: str) -> str:
    if not _REVISION.fullmatch(text) or ".." in text or text.startswith(("-", "/")) or "//" in text:
        raise _Refusal(_BAD_REVISION)
    return text.rstrip("/")


def _linked(repo: str, below: list[str]) -> Address:
    """What follows the name in a link, such as tree/main/folder. The slashes of a branch are escaped in one; those
    of refs/pr/N need not be."""
    kind, *parts = below
    if kind not in _WITH_REVISION or not parts:
        raise _Refusal(_BAD_LINK)
    length = 3 if parts[0] == "refs" else 1
    revision = _revision(unquote("/".join(parts[:length])))
    place = "/".join(unquote(part) for part in parts[length:])
    if place:
        try:
            check_path(place)
        except UnsafeName:
            raise _Refusal(_BAD_FILE) from None
    if kind in ("tree", "commit"):
        return Address(repo, revision, folder=place)
    if not place:
        raise _Refusal(_BAD_FILE)
    return Address(repo, revision, file=place)
