"""Errors of talking to a hub. Those marked `transient` may succeed when retried.

Errors of the local half of a download, such as a full disk or a wrong checksum, are in `modules.downloads.errors`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from modules.core.errors import WebUIError, Words, both


class DownloadError(WebUIError):
    status = 502
    transient: ClassVar[bool] = False


class Stopped(DownloadError):
    """The user paused or cancelled the download; not a failure."""

    status = 409
    template = {"en": "Stopped.", "zh": "已停止。"}


# -- what the user entered ---------------------------------------------------------------------------------------------


@dataclass(eq=False)
class BadAddress(DownloadError):
    """The text does not name a repository. `why` is a whole sentence, or empty."""

    status = 400
    template = {
        "en": "{text!r} does not name a model: enter user/model, user/model:branch or a Hugging Face link. {why}",
        "zh": "无法识别“{text}”。请输入 用户名/模型名、用户名/模型名:分支，或 Hugging Face 链接。{why}",
    }
    template_empty: ClassVar[Words] = {
        "en": "Enter a model first: user/model, user/model:branch or a Hugging Face link.",
        "zh": "请先输入 用户名/模型名、用户名/模型名:分支，或 Hugging Face 链接。",
    }
    text: str
    why: Words = dataclasses.field(default_factory=lambda: both(""))

    def say(self, language: str) -> str:
        return super().say(language) if self.text else self.template_empty[language]


@dataclass(eq=False)
class BadEndpoint(DownloadError):
    """`text` contains no password. `why` is a whole sentence, or empty."""

    status = 400
    template = {
        "en": "{text!r} is not a valid download site: expected a URL such as https://hf-mirror.com. {why}",
        "zh": "“{text}”不是有效的下载站点，应形如 https://hf-mirror.com。{why}",
    }
    text: str
    why: Words = dataclasses.field(default_factory=lambda: both(""))


class BadToken(DownloadError):
    status = 400
    template = {
        "en": "Invalid access token: it contains spaces or other characters that do not occur in tokens.",
        "zh": "访问令牌无效：含有空格或其他不允许的字符。",
    }


@dataclass(eq=False)
class TokenRefused(DownloadError):
    status = 401
    template = {
        "en": "{host} rejected the access token: it is wrong or has expired. Enter a valid one.",
        "zh": "{host} 拒绝了访问令牌：令牌有误或已过期，请重新填写。",
    }
    host: str


# -- what the repository contains --------------------------------------------------------------------------------------


@dataclass(eq=False)
class RepositoryNotFound(DownloadError):
    status = 404
    template = {
        "en": "{repo} was not found on {host}: the name is wrong, or the repository is private.",
        "zh": "在 {host} 上找不到 {repo}：名称有误，或仓库未公开。",
    }
    host: str
    repo: str


@dataclass(eq=False)
class AccessDenied(DownloadError):
    status = 403
    template = {
        "en": "{repo} is gated: accept its terms at https://huggingface.co/{repo}, then set an access token.",
        "zh": "{repo} 需要授权：请先在 https://huggingface.co/{repo} 同意其条款，再填写访问令牌。",
    }
    repo: str


@dataclass(eq=False)
class RevisionNotFound(DownloadError):
    status = 404
    template = {
        "en": "{repo} has no branch or revision {revision!r}. Available: {known}",
        "zh": "{repo} 没有分支或版本“{revision}”。可用：{known}",
    }
    repo: str
    revision: str
    known: Sequence[str]

    def shown(self, language: str) -> dict[str, object]:
        return super().shown(language) | {"known": ", ".join(self.known) or "–"}


@dataclass(eq=False)
class FileNotOnHub(DownloadError):
    status = 404
    template = {
        "en": "{repo} has no file {file!r}. Similar names: {nearest}",
        "zh": "{repo} 中没有文件“{file}”。名称相近的有：{nearest}",
    }
    repo: str
    file: str
    nearest: Sequence[str] = ()

    def shown(self, language: str) -> dict[str, object]:
        return super().shown(language) | {"nearest": ", ".join(self.nearest) or "–"}


class NothingToDownload(DownloadError):
    status = 400
    template = {
        "en": "Nothing to download: no file matches this selection.",
        "zh": "没有可下载的文件：没有文件符合所选条件。",
    }


@dataclass(eq=False)
class IncompleteSet(DownloadError):
    """The repository lacks parts of a split file, which no loader could load."""

    status = 409
    template = {
        "en": "{repo} does not have all parts of {file}. Missing: {missing}",
        "zh": "{repo} 中 {file} 的分卷不完整，缺少：{missing}",
    }
    repo: str
    file: str
    missing: Sequence[str]

    def shown(self, language: str) -> dict[str, object]:
        return super().shown(language) | {"missing": ", ".join(self.missing)}


@dataclass(eq=False)
class TokenizerMissing(DownloadError):
    """The repository lacks tokenizer_config.json or the vocabulary that belongs to it."""

    status = 404
    template = {
        "en": "{repo} has no tokenizer files. Enter the repository of the unquantized model, in Transformers format.",
        "zh": "{repo} 中没有词符化器文件。请填写未量化的原模型（Transformers 格式）的仓库。",
    }
    repo: str


@dataclass(eq=False)
class UnsafeName(DownloadError):
    """`file` has been escaped for display."""

    template = {
        "en": "Download refused: the repository contains an unsafe file name ({file}).",
        "zh": "已拒绝下载：仓库含不安全的文件名“{file}”。",
    }
    file: str


@dataclass(eq=False)
class LinkInTheWay(DownloadError):
    """A folder or file below the target is a symbolic link, or a folder is a file; nothing was written through it."""

    status = 409
    template = {
        "en": "Cannot write {file}: its path contains a symbolic link, which may lead outside the folder, or a file in "
        "place of a folder. Remove or rename it first.",
        "zh": "无法写入 {file}：路径中有符号链接（可能指向文件夹之外），或本应是文件夹的位置上是文件。"
        "请先移除或重命名。",
    }
    file: str


# -- how the mirror answers --------------------------------------------------------------------------------------------


@dataclass(eq=False)
class MirrorUnreachable(DownloadError):
    """`why` is a phrase without a full stop; the operating system's words come in one language only."""

    transient = True
    template = {
        "en": "Cannot reach {host} ({why}). Check your connection, or use another download site.",
        "zh": "无法连接 {host}（{why}）。请检查网络，或更换下载站点。",
    }
    host: str
    why: str | Words


@dataclass(eq=False)
class RedirectUnreachable(DownloadError):
    transient = True
    template = {
        "en": "{host} does not store this file and redirects to {target}, which cannot be reached. "
        "Check your connection, or use another download site.",
        "zh": "{host} 未缓存此文件，重定向到了无法连接的 {target}。请检查网络或代理，或更换下载站点。",
    }
    host: str
    target: str


class ProxyUnusable(DownloadError):
    """The environment names a proxy that no request can be sent to."""

    template = {
        "en": "The proxy set in the environment (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) has no valid address. Set an "
        "HTTP or SOCKS proxy, such as http://127.0.0.1:7890 or socks5h://127.0.0.1:7891.",
        "zh": "环境变量（HTTPS_PROXY、HTTP_PROXY 或 ALL_PROXY）中的代理地址无效。请设置 HTTP 或 SOCKS 代理，如 "
        "http://127.0.0.1:7890 或 socks5h://127.0.0.1:7891。",
    }


@dataclass(eq=False)
class NotAHub(DownloadError):
    """`detail` is a phrase without a full stop."""

    template = {
        "en": "{host} does not answer like a Hugging Face hub ({detail}). Check the download site, or whether the "
        "network requires a login.",
        "zh": "{host} 返回的内容不符合 Hugging Face 接口（{detail}）。请检查站点地址，或确认网络是否需要登录认证。",
    }
    host: str
    detail: str | Words


@dataclass(eq=False)
class SearchUnavailable(DownloadError):
    status = 501
    template = {
        "en": "{host} offers no search. Enter the name of a repository below.",
        "zh": "{host} 不提供搜索功能，请在下方直接填写仓库名称。",
    }
    host: str


@dataclass(eq=False)
class RateLimited(DownloadError):
    """`seconds` is the time until the next request is allowed, at most 300."""

    status = 429
    transient = True
    template = {
        "en": "{host} limits the request rate. Try again in {seconds:.0f} s.",
        "zh": "{host} 限制了请求频率，请在 {seconds:.0f} 秒后重试。",
    }
    host: str
    seconds: float


@dataclass(eq=False)
class ServerFault(DownloadError):
    transient = True
    template = {"en": "Server error on {host} (HTTP {code}).", "zh": "{host} 服务器出错（HTTP {code}）。"}
    host: str
    code: int


@dataclass(eq=False)
class WrongSize(DownloadError):
    """`sent` and `listed` are in bytes."""

    transient = True
    template = {
        "en": "{host} sends {sent} bytes of {file}, but its file list says {listed}.",
        "zh": "{host} 发送的 {file} 为 {sent} 字节，与其文件列表中的 {listed} 字节不符。",
    }
    host: str
    file: str
    sent: int
    listed: int
