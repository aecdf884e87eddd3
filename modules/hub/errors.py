"""What can go wrong between a hub and the disk. Those with `passing` may be gone when it is tried again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from modules.core.errors import WebUIError, Words, both


class DownloadError(WebUIError):
    status = 502
    passing: ClassVar[bool] = False


@dataclass(eq=False)
class BadAddress(DownloadError):
    """What was typed names no repository; `why` is a whole sentence, or empty."""

    status = 400
    template = {
        "en": "Can't read {text!r}: give user/model, user/model:branch or a Hugging Face link. {why}",
        "zh": "无法识别“{text}”。请输入 用户名/模型名、用户名/模型名:分支，或 Hugging Face 链接。{why}",
    }
    text: str
    why: Words = dataclasses.field(default_factory=lambda: both(""))


@dataclass(eq=False)
class RepositoryNotFound(DownloadError):
    status = 404
    template = {
        "en": "{repo} was not found on {host}: the name is wrong, or it is private.",
        "zh": "在 {host} 上找不到 {repo}：名称有误，或为私有仓库。",
    }
    host: str
    repo: str


@dataclass(eq=False)
class AccessDenied(DownloadError):
    status = 403
    template = {
        "en": "{repo} is gated: accept its terms at https://huggingface.co/{repo}, then set an access token.",
        "zh": "{repo} 需要授权：先在 https://huggingface.co/{repo} 同意条款，再填写访问令牌。",
    }
    repo: str


@dataclass(eq=False)
class RevisionNotFound(DownloadError):
    status = 404
    template = {
        "en": "{repo} has no branch or revision {revision!r}; there are: {known}",
        "zh": "{repo} 没有分支或版本“{revision}”。现有：{known}",
    }
    repo: str
    revision: str
    known: Sequence[str]

    def shown(self, language: str) -> dict[str, object]:
        return super().shown(language) | {"known": ", ".join(self.known)}


@dataclass(eq=False)
class FileNotOnHub(DownloadError):
    status = 404
    template = {
        "en": "{repo} has no file {file!r}. Nearest: {nearest}",
        "zh": "{repo} 里没有文件“{file}”。最接近：{nearest}",
    }
    repo: str
    file: str
    nearest: Sequence[str] = ()

    def shown(self, language: str) -> dict[str, object]:
        return super().shown(language) | {"nearest": ", ".join(self.nearest) or "–"}


class NothingToDownload(DownloadError):
    status = 400
    template = {"en": "Nothing to download for this choice.", "zh": "没有符合条件的文件。"}


@dataclass(eq=False)
class MirrorUnreachable(DownloadError):
    passing = True
    template = {
        "en": "{host} cannot be reached ({why}). Check the network, or choose another endpoint.",
        "zh": "连不上 {host}（{why}）。请检查网络，或更换下载站点。",
    }
    host: str
    why: str


@dataclass(eq=False)
class RedirectUnreachable(DownloadError):
    passing = True
    template = {
        "en": "{host} does not have this file itself and sends us to {target}, which cannot be reached.",
        "zh": "{host} 没有此文件的缓存，转到 {target}，而 {target} 连不上。",
    }
    host: str
    target: str


@dataclass(eq=False)
class NotAHub(DownloadError):
    template = {
        "en": "{host} does not answer like a Hugging Face hub ({detail}). Check the endpoint, or whether the network "
        "wants a login.",
        "zh": "{host} 的回答不像 Hugging Face 接口（{detail}）。请检查站点地址，或网络是否需要登录。",
    }
    host: str
    detail: str


@dataclass(eq=False)
class RateLimited(DownloadError):
    """`seconds` until it may be tried again, 300 at most."""

    status = 429
    passing = True
    template = {
        "en": "{host} limits the rate of requests; going on in {seconds:.0f} s.",
        "zh": "{host} 限制了请求频率，{seconds:.0f} 秒后自动继续。",
    }
    host: str
    seconds: float


@dataclass(eq=False)
class ServerFault(DownloadError):
    passing = True
    template = {"en": "{host} failed (HTTP {code}).", "zh": "{host} 出错（HTTP {code}）。"}
    host: str
    code: int


@dataclass(eq=False)
class DiskFull(DownloadError):
    """`needed` and `free` are bytes."""

    status = 507
    template = {
        "en": "Not enough disk space: {needed} needed, {free} free in {folder}. Make room, then resume; "
        "what is here stays.",
        "zh": "磁盘空间不足：需要 {needed}，{folder} 只剩 {free}。腾出空间后点“继续”，已下载部分保留。",
    }
    folder: str
    needed: int
    free: int

    def shown(self, language: str) -> dict[str, object]:
        sizes: dict[str, object] = {key: f"{getattr(self, key) / 1e9:.2f} GB" for key in ("needed", "free")}
        return super().shown(language) | sizes


@dataclass(eq=False)
class DiskRefused(DownloadError):
    """Read-only, not ours, a file or a link where a folder should be, a broken disk: `why` is the system's word."""

    status = 500
    template = {
        "en": "{folder} cannot be written to ({why}).",
        "zh": "无法写入 {folder}（{why}）。",
    }
    folder: str
    why: str


@dataclass(eq=False)
class ChecksumMismatch(DownloadError):
    template = {
        "en": "{file} failed its check twice: the mirror's bytes are not those of its own list. "
        "Expected {expected}…, got {found}…. The file was deleted.",
        "zh": "{file} 校验失败（已重下一次）：站点给出的内容与其清单不符。"
        "期望 {expected}…，实际 {found}…。文件已删除。",
    }
    file: str
    expected: str
    found: str


@dataclass(eq=False)
class WrongSize(DownloadError):
    passing = True
    template = {
        "en": "{host} has {sent} bytes of {file}; its list says {listed}.",
        "zh": "{host} 上的 {file} 有 {sent} 字节，清单为 {listed} 字节。",
    }
    host: str
    file: str
    sent: int
    listed: int


@dataclass(eq=False)
class UnsafeName(DownloadError):
    """`file` is escaped already."""

    template = {
        "en": "The repository has an unsafe file name ({file}); the whole download is refused.",
        "zh": "仓库含不安全的文件名“{file}”，已拒绝整个下载。",
    }
    file: str


@dataclass(eq=False)
class DownloadNotFound(DownloadError):
    status = 404
    template = {"en": "There is no download {id!r}.", "zh": "没有编号为 {id!r} 的下载任务。"}
    id: str


class Stopped(DownloadError):
    """Paused or cancelled: not a fault."""

    status = 409
    template = {"en": "Stopped.", "zh": "已停止。"}


@dataclass(eq=False)
class BadEndpoint(DownloadError):
    """`text` has been cleared of a password."""

    status = 400
    template = {
        "en": "{text!r} is no endpoint: expected something like https://hf-mirror.com. {why}",
        "zh": "“{text}”不是有效的下载站点，应形如 https://hf-mirror.com。{why}",
    }
    text: str
    why: Words = dataclasses.field(default_factory=lambda: both(""))


class BadToken(DownloadError):
    status = 400
    template = {
        "en": "This is no access token: it has spaces or other characters that no token has.",
        "zh": "这不是有效的访问令牌：含有空格或其他不允许的字符。",
    }


@dataclass(eq=False)
class TokenRefused(DownloadError):
    status = 401
    template = {
        "en": "{host} does not accept the access token: it is wrong, or has expired.",
        "zh": "{host} 不接受该访问令牌：令牌有误或已过期。",
    }
    host: str


@dataclass(eq=False)
class LinkInTheWay(DownloadError):
    """A folder or file below the target is a symbolic link; nothing was written through it."""

    status = 409
    template = {
        "en": "{file} cannot be written: a link stands in its way, which may lead anywhere. Remove the link first.",
        "zh": "无法写入 {file}：路径中有符号链接，可能指向别处。请先移除该链接。",
    }
    file: str


@dataclass(eq=False)
class IncompleteSet(DownloadError):
    """Parts of a split file are not in the repository: nothing could load it."""

    status = 409
    template = {
        "en": "{repo} does not have all parts of {file}; missing: {missing}",
        "zh": "{repo} 里 {file} 的分卷不全，缺少：{missing}",
    }
    repo: str
    file: str
    missing: Sequence[str]

    def shown(self, language: str) -> dict[str, object]:
        return super().shown(language) | {"missing": ", ".join(self.missing)}


@dataclass(eq=False)
class TokenizerMissing(DownloadError):
    """tokenizer_config.json, or the vocabulary it is about."""

    status = 404
    template = {
        "en": "{repo} has no files of a tokenizer. Give the unquantised model's repository, in Transformers format.",
        "zh": "{repo} 里没有词符化器文件。请填写未量化模型（Transformers 格式）的仓库。",
    }
    repo: str


@dataclass(eq=False)
class TargetExists(DownloadError):
    status = 409
    template = {
        "en": "{folder} exists already. Rename or remove it first.",
        "zh": "{folder} 已存在，请先重命名或移走。",
    }
    folder: str


@dataclass(eq=False)
class BadDigest(DownloadError):
    status = 400
    template = {
        "en": "{text!r} is no sha256: expected 64 hexadecimal digits.",
        "zh": "“{text}”不是有效的 sha256：应为 64 位十六进制数。",
    }
    text: str


@dataclass(eq=False)
class DigestUnlisted(DownloadError):
    """There is nothing to compare the user's sha256 with."""

    status = 409
    template = {
        "en": "The hub lists no sha256 of {file}: only large files have one. Empty the sha256 field.",
        "zh": "站点没有给出 {file} 的 sha256（仅大文件有）。请清空 sha256 一栏。",
    }
    file: str


@dataclass(eq=False)
class DigestAmbiguous(DownloadError):
    status = 400
    template = {
        "en": "A sha256 is that of one file, but {count} large files are chosen. Choose one, or empty that field.",
        "zh": "sha256 只对应一个文件，而所选有 {count} 个大文件。请只选一个，或清空 sha256 一栏。",
    }
    count: int


@dataclass(eq=False)
class DigestDiffers(DownloadError):
    """Found before anything was downloaded."""

    status = 409
    template = {
        "en": "Not downloaded: {file} should have the sha256 {expected}, but the hub lists {listed}.",
        "zh": "未下载：{file} 的 sha256 应为 {expected}，而站点清单为 {listed}。",
    }
    file: str
    expected: str
    listed: str


@dataclass(eq=False)
class PickleRefused(DownloadError):
    """Found in a file that has come, before it was put to where models are."""

    status = 409
    template = {
        "en": "Not saved: loading {file} would call {name}, which weights do not need and which may be an attack. "
        "Get the weights as safetensors instead.",
        "zh": "未保存：加载 {file} 时会调用 {name}，而权重并不需要它，可能是恶意代码。请改用 safetensors 格式的权重。",
    }
    file: str
    name: str


@dataclass(eq=False)
class PickleUnclear(DownloadError):
    """Nobody can tell what loading the file would do; `why` has no full stop."""

    status = 409
    template = {
        "en": "Not saved: nobody can tell what loading {file} would do: {why}. Get the weights as safetensors instead.",
        "zh": "未保存：无法确认加载 {file} 时会执行什么：{why}。请改用 safetensors 格式的权重。",
    }
    file: str
    why: Words
