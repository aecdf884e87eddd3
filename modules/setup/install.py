"""Install the packages of a loader, for `--install` in the terminal and for the Install button of the page."""

from __future__ import annotations

import sys
import time

from modules.core.errors import LoaderUnavailable, Unsupported, WebUIError, Words
from modules.loaders.availability import overlay_of, unavailable
from modules.loaders.overlay import Overlay
from modules.loaders.registry import RPC, Loader, find_loader
from modules.setup.overlay_installer import Installation, OverlayInstaller
from modules.setup.pip import POLL_SECONDS
from modules.system.terminal import ProgressLine

_WAITING: Words = {
    "en": "Waiting for another process that is installing it ...",
    "zh": "另一进程正在安装，等待其完成……",
}
_FETCHING: Words = {
    "en": "{name}: {done} of {total} packages downloaded",
    "zh": "{name}：已下载 {done}/{total} 个软件包",
}
_SOURCE: Words = {"en": "Downloading the source of {name}", "zh": "正在下载 {name} 的源代码"}
_CONFIGURING: Words = {"en": "Preparing to compile {name}", "zh": "正在准备编译 {name}"}
_COMPILING: Words = {"en": "Compiling {name}: {done} of {total}{left}", "zh": "正在编译 {name}：{done}/{total}{left}"}
_MINUTES: Words = {"en": ", about {count} min left", "zh": "，约剩 {count} 分钟"}
_LAST_MINUTE: Words = {"en": ", less than a minute left", "zh": "，剩余不到 1 分钟"}
_DONE: Words = {"en": "{loader} is ready.", "zh": "{loader} 已可使用。"}
_BY_HAND: Words = {
    "en": "The packages of {loader} belong in the application's own environment. Run:\n{commands}",
    "zh": "{loader} 的软件包应安装到本程序的环境中，请运行：\n{commands}",
}
_IN_PROGRESS: Words = {
    "en": "its packages are being installed ({progress}). Load the model when that is done.",
    "zh": "正在安装所需的软件包（{progress}）。请在完成后加载模型。",
}


def describe(installation: Installation, overlay: Overlay, language: str) -> str:
    """Return one line about an installation in progress, for the page and the terminal."""
    if installation.progress_unknown:
        return _WAITING[language]
    facts = {"name": overlay.display_name, "done": installation.done, "total": installation.total}
    if installation.phase == "compiling":
        if not installation.total:
            return _CONFIGURING[language].format(**facts)
        return _COMPILING[language].format(**facts, left=_time_left(installation.seconds_left, language))
    return (_FETCHING if installation.total else _SOURCE)[language].format(**facts)


def _time_left(seconds: float | None, language: str) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return _LAST_MINUTE[language]
    return _MINUTES[language].format(count=round(seconds / 60))


def fraction_done(installation: Installation) -> float | None:
    """Return the progress from 0 to 1; None if it is unknown."""
    return installation.done / installation.total if installation.total else None


def start(loader: Loader, overlays: OverlayInstaller, model_format: str = "") -> Overlay:
    """Start installing the packages that the loader needs for a format in the background; return their overlay.

    Raises LoaderUnavailable if no packages would help, and Unsupported if they belong in the main environment.
    """
    reason = unavailable(loader, model_format)
    if reason is not None and not reason.install:
        raise reason
    overlay = overlay_of(loader, model_format)
    if overlay is None:
        raise Unsupported(_by_hand(loader))
    overlays.start(overlay, force=reason is not None)
    return overlay


def installation_in_progress(loader: Loader, model_format: str, overlays: OverlayInstaller) -> WebUIError | None:
    """Return the error of a load whose packages are being installed; None if they are not."""
    overlay = overlay_of(loader, model_format)
    if overlay is None or not overlays.status(overlay).in_progress:
        return None
    return describe_progress(loader, overlay, overlays)


def describe_progress(loader: Loader, overlay: Overlay, overlays: OverlayInstaller) -> WebUIError:
    """Return the error of a load that needs an overlay: that it is being installed, or why it could not be."""
    installation = overlays.status(overlay)
    if installation.error is not None:
        return installation.error
    reason = {
        language: text.format(progress=describe(installation, overlay, language))
        for language, text in _IN_PROGRESS.items()
    }
    return LoaderUnavailable(loader.name, reason)


def _missing(loader: Loader) -> dict[str, LoaderUnavailable]:
    """Return why the loader is unavailable, by format; the format "" stands for any."""
    reasons = {model_format: unavailable(loader, model_format) for model_format in ("", *loader.formats)}
    return {model_format: reason for model_format, reason in reasons.items() if reason is not None}


def _by_hand(loader: Loader) -> Words:
    commands = "\n".join(dict.fromkeys(reason.install for reason in _missing(loader).values()))
    return {language: text.format(loader=loader.name, commands=commands) for language, text in _BY_HAND.items()}


def wait(loader: Loader, language: str, overlays: OverlayInstaller) -> None:
    """Install the packages that the loader needs for all its formats, with progress on stderr.

    Raises InstallFailed, LoaderUnavailable or Unsupported.
    """
    for model_format in _missing(loader):
        if unavailable(loader, model_format):  # one overlay may serve several formats
            installation = _watch_and_close(start(loader, overlays, model_format), language, overlays)
            if installation.error is not None:
                raise installation.error
    for reason in _missing(loader).values():
        raise reason
    print(_DONE[language].format(loader=loader.name), file=sys.stderr, flush=True)


def wait_for_rpc(language: str, overlays: OverlayInstaller) -> None:
    """Compile llama.cpp if it is missing, and what other machines need, with progress on stderr.

    Raises InstallFailed, LoaderUnavailable or Unsupported.
    """
    loader = find_loader("llama.cpp")
    if unavailable(loader):
        wait(loader, language, overlays)
    if not RPC.is_installed:
        overlays.start(RPC)
        if (error := _watch_and_close(RPC, language, overlays).error) is not None:
            raise error


def _watch_and_close(overlay: Overlay, language: str, overlays: OverlayInstaller) -> Installation:
    try:
        return watch(overlay, language, overlays)
    finally:  # on Ctrl-C
        overlays.close()


def watch(overlay: Overlay, language: str, overlays: OverlayInstaller) -> Installation:
    """Show the progress of an installation on stderr until it ends; return its final state."""
    line = ProgressLine()
    while (installation := overlays.status(overlay)).in_progress:
        line.show(describe(installation, overlay, language), fraction_done(installation))
        time.sleep(POLL_SECONDS)
    line.clear()
    return installation
