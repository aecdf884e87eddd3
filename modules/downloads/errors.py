"""Errors of the local half of a download: disk, checksums, unsafe pickles, jobs.

Errors of talking to a hub are in `modules.hub.errors`.
"""

from __future__ import annotations

from dataclasses import dataclass

from modules.core.errors import Words
from modules.hub.errors import DownloadError


@dataclass(eq=False)
class DownloadNotFound(DownloadError):
    status = 404
    template = {"en": "There is no download {id!r}.", "zh": "没有编号为{id!r}的下载任务。"}
    id: str


# -- the disk ----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class DiskFull(DownloadError):
    """`needed` and `free` are in bytes."""

    status = 507
    template = {
        "en": "Not enough disk space: {needed} needed, {free} free in {folder}. Free some space, then resume; "
        "what has been downloaded is kept.",
        "zh": "磁盘空间不足：需要 {needed}，{folder} 仅剩 {free}。清理空间后点“继续”即可，已下载的部分会保留。",
    }
    folder: str
    needed: int
    free: int

    def shown(self, language: str) -> dict[str, object]:
        sizes: dict[str, object] = {key: f"{getattr(self, key) / 1e9:.2f} GB" for key in ("needed", "free")}
        return super().shown(language) | sizes


@dataclass(eq=False)
class DiskRefused(DownloadError):
    """The disk is read-only, belongs to another user or is broken, or a file or link stands where a folder should be.

    `why` is the operating system's message.
    """

    status = 500
    template = {
        "en": "Cannot write to {folder} ({why}).",
        "zh": "无法写入 {folder}（{why}）。",
    }
    folder: str
    why: str


@dataclass(eq=False)
class TargetExists(DownloadError):
    status = 409
    template = {
        "en": "{folder} already exists. Rename or remove it first.",
        "zh": "{folder} 已存在，请先重命名或移走。",
    }
    folder: str


# -- checksums ---------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class ChecksumMismatch(DownloadError):
    """`expected` and `found` are the beginnings of hashes."""

    template = {
        "en": "{file} failed verification twice: the received bytes do not match the site's own file list "
        "(expected {expected}…, got {found}…). The file was deleted. Use another download site.",
        "zh": "{file} 两次校验均未通过：收到的内容与站点文件列表不符（应为 {expected}…，实际 {found}…）。"
        "文件已删除，请更换下载站点。",
    }
    file: str
    expected: str
    found: str


@dataclass(eq=False)
class BadDigest(DownloadError):
    status = 400
    template = {
        "en": "{text!r} is not a valid SHA-256: expected 64 hexadecimal digits.",
        "zh": "“{text}”不是有效的 SHA-256：应为 64 位十六进制数。",
    }
    text: str


@dataclass(eq=False)
class DigestUnlisted(DownloadError):
    """The site lists no SHA-256 that the user's could be compared with."""

    status = 409
    template = {
        "en": "The site lists no SHA-256 of {file}: only large files have one. Clear the SHA-256 field.",
        "zh": "站点没有给出 {file} 的 SHA-256（仅大文件有）。请清空 SHA-256 一栏。",
    }
    file: str


@dataclass(eq=False)
class DigestAmbiguous(DownloadError):
    status = 400
    template = {
        "en": "A SHA-256 belongs to one file, but {count} large files are selected. "
        "Select one, or clear the SHA-256 field.",
        "zh": "SHA-256 只对应一个文件，而所选有 {count} 个大文件。请只选一个，或清空 SHA-256 一栏。",
    }
    count: int


@dataclass(eq=False)
class DigestDiffers(DownloadError):
    """Detected before anything was downloaded."""

    status = 409
    template = {
        "en": "Not downloaded: the SHA-256 of {file} should be {expected}, but the site lists {listed}.",
        "zh": "未下载：{file} 的 SHA-256 应为 {expected}，而站点列出的是 {listed}。",
    }
    file: str
    expected: str
    listed: str


# -- pickles -----------------------------------------------------------------------------------------------------------


@dataclass(eq=False)
class PickleRefused(DownloadError):
    """Detected in a downloaded file before it was installed."""

    status = 409
    template = {
        "en": "Not saved: loading {file} would call {name}, which model weights do not need and which may be an "
        "attack. Download the weights as safetensors instead.",
        "zh": "未保存：加载 {file} 时会调用 {name}，而模型权重并不需要它，可能是恶意代码。"
        "请改用 safetensors 格式的权重。",
    }
    file: str
    name: str


@dataclass(eq=False)
class PickleUnclear(DownloadError):
    """`why` is a phrase without a full stop."""

    status = 409
    template = {
        "en": "Not saved: {file} could not be checked for unsafe code ({why}). "
        "Download the weights as safetensors instead.",
        "zh": "未保存：无法确认 {file} 是否含有恶意代码（{why}）。请改用 safetensors 格式的权重。",
    }
    file: str
    why: Words
