"""Parse what a user types or pastes to name a model: user/model, user/model:branch, or a link to a hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from modules.core.errors import Words, both
from modules.hub.errors import BadAddress, UnsafeName
from modules.hub.safe_paths import check_path

KNOWN_HUBS = ("https://huggingface.co", "https://www.huggingface.co", "https://hf.co", "https://hf-mirror.com")
"""Links to these hosts are accepted whichever endpoint is configured."""

_MAX_LENGTH = 2000
_NAME = re.compile(r"(?=.{1,96}$)\w(?:[\w.-]*\w)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9._/-]{1,200}")
_WITH_REVISION = {"tree", "blob", "resolve", "raw", "commit"}
_NOT_USERS = {
    *("datasets", "spaces", "docs", "blog", "collections", "papers", "models", "tasks", "api", "learn", "posts"),
    *("organizations", "settings", "join", "login", "pricing", "enterprise", "chat", "inference", "buckets", "kernels"),
}

_NOT_A_MODEL: Words = {"en": "This address does not name a model.", "zh": "这不是模型仓库的地址。"}
_NO_USER: Words = {"en": "The user name before the model name is missing.", "zh": "模型名前缺少用户名。"}
_BAD_NAME: Words = {
    "en": "Names consist of up to 96 letters, digits and . _ -, and begin and end with a letter or digit.",
    "zh": "名称只能含字母、数字和 . _ -，最多 96 个字符，且以字母或数字开头和结尾。",
}
_BAD_REVISION: Words = {
    "en": "Branch names consist of letters, digits and . _ / -, and do not begin with - or /.",
    "zh": "分支名只能含字母、数字和 . _ / -，且不以 - 或 / 开头。",
}
_BAD_FILE: Words = {"en": "The file name in the link is not valid.", "zh": "链接中的文件名无效。"}
_BAD_LINK: Words = {"en": "Links of this kind are not supported.", "zh": "不支持这种链接。"}


@dataclass(frozen=True)
class RepoAddress:
    """A repository, its revision, and the `folder` or `file` that a link named in it (or "").

    `revision` is a branch, a commit or refs/pr/N.
    """

    repo: str
    revision: str = "main"
    folder: str = ""
    file: str = ""


def parse_address(text: str, endpoints: Sequence[str] = ()) -> RepoAddress:
    """Parse a repository id or a link to a known hub or one of `endpoints` (URLs, possibly with a path prefix).

    Raises BadAddress.
    """
    address = text.strip()
    try:
        if len(address) > _MAX_LENGTH or any(char.isspace() or not char.isprintable() for char in address):
            raise _Rejected(both(""))
        return _parse_path(_path_on_hub(address, (*KNOWN_HUBS, *endpoints)))
    except _Rejected as rejected:
        shown = address if len(address) <= _MAX_LENGTH else address[:_MAX_LENGTH] + "…"
        raise BadAddress(shown, rejected.why) from None


class _Rejected(Exception):
    def __init__(self, why: Words) -> None:
        super().__init__(why["en"])
        self.why = why


def _path_on_hub(text: str, endpoints: Sequence[str]) -> str:
    """Return the path of a link below its endpoint, or all of `text` if it is not a link."""
    hosts = {urlsplit(endpoint).netloc.lower() for endpoint in endpoints}
    if "://" not in text:
        if text.partition("/")[0].lower() not in hosts:
            return text.split("?")[0].strip("/") if not text.startswith("/") else text
        text = f"https://{text}"
    try:
        url = urlsplit(text)
        netloc, scheme = url.netloc.lower(), url.scheme.lower()
    except ValueError:
        raise _Rejected(_BAD_LINK) from None
    if scheme not in ("http", "https"):
        raise _Rejected(_BAD_LINK)
    if netloc not in hosts:
        host = netloc.rpartition("@")[2]
        raise _Rejected({"en": f"{host} is not a configured download site.", "zh": f"{host} 不是已设置的下载站点。"})
    prefixes = [urlsplit(endpoint).path.strip("/") for endpoint in endpoints if urlsplit(endpoint).netloc == netloc]
    path = url.path.strip("/")
    for prefix in sorted(filter(None, prefixes), key=len, reverse=True):
        if path.startswith(prefix + "/"):
            return path[len(prefix) + 1 :]
    return path


def _parse_path(path: str) -> RepoAddress:
    user, _, rest = path.partition("/")
    if user.lower() in _NOT_USERS:
        raise _Rejected(_NOT_A_MODEL)
    if not rest:
        raise _Rejected(_NO_USER if _NAME.fullmatch(re.split("[:@]", user)[0]) else both(""))
    model, *tail = rest.split("/")
    name, separator, branch = re.match(r"([^:@]*)([:@]?)(.*)", model, re.DOTALL).groups()  # type: ignore[union-attr]
    repo = _parse_repo(user, name)
    if separator:
        return RepoAddress(repo, _parse_revision("/".join([branch, *tail])))
    return _parse_link_tail(repo, tail) if tail else RepoAddress(repo)


def _parse_repo(user: str, model: str) -> str:
    names = (user, model)
    if any(not _NAME.fullmatch(name) or "--" in name or ".." in name for name in names) or model.endswith(".git"):
        raise _Rejected(_BAD_NAME)
    return f"{user}/{model}"


def _parse_revision(text: str) -> str:
    if not _REVISION.fullmatch(text) or ".." in text or text.startswith(("-", "/")) or "//" in text:
        raise _Rejected(_BAD_REVISION)
    return text.rstrip("/")


def _parse_link_tail(repo: str, tail: list[str]) -> RepoAddress:
    """Parse what follows user/model in a link, such as tree/main/folder.

    Slashes within a branch name are percent-encoded in links; those of refs/pr/N may appear as they are.
    """
    view, *parts = tail
    if view not in _WITH_REVISION or not parts:
        raise _Rejected(_BAD_LINK)
    length = 3 if parts[0] == "refs" else 1
    revision = _parse_revision(unquote("/".join(parts[:length])))
    path = "/".join(unquote(part) for part in parts[length:])
    if path:
        try:
            check_path(path)
        except UnsafeName:
            raise _Rejected(_BAD_FILE) from None
    if view in ("tree", "commit"):
        return RepoAddress(repo, revision, folder=path)
    if not path:
        raise _Rejected(_BAD_FILE)
    return RepoAddress(repo, revision, file=path)
