"""Install what a loader needs: by `--install` in the terminal, or by a button of the page."""

from __future__ import annotations

import sys
import time

from modules.core.errors import LoaderUnavailable, Unsupported, Words
from modules.loaders.overlay import Overlay
from modules.loaders.registry import Loader, overlay_of, unavailable
from modules.setup.overlay_installer import Installing, Overlays
from modules.system.terminal import ProgressLine

_LOOK_SECONDS = 0.2

_WAITING: Words = {"en": "Another process is installing; waiting for it ...", "zh": "另一进程正在安装，等待其完成……"}
_FETCHING: Words = {"en": "{name}: {done} of {total} packages fetched", "zh": "{name}：已获取 {done}/{total} 个软件包"}
_SOURCE: Words = {"en": "Fetching the source of {name}", "zh": "正在获取 {name} 的源代码"}
_CONFIGURING: Words = {"en": "Preparing to compile {name}", "zh": "正在准备编译 {name}"}
_COMPILING: Words = {"en": "Compiling {name}: {done} of {total}{left}", "zh": "正在编译 {name}：{done}/{total}{left}"}
_MINUTES: Words = {"en": ", about {count} min left", "zh": "，约剩 {count} 分钟"}
_LAST_MINUTE: Words = {"en": ", less than a minute left", "zh": "，剩余不到 1 分钟"}
_DONE: Words = {"en": "{loader} is ready.", "zh": "{loader} 已可使用。"}


def describe(now: Installing, overlay: Overlay, language: str) -> str:
    """Return one line about an installation that is under way, the same on the page and in the terminal."""
    if now.silent:
        return _WAITING[language]
    facts = {"name": overlay.display_name, "done": now.done, "total": now.total}
    if now.phase == "compiling":
        if not now.total:
            return _CONFIGURING[language].format(**facts)
        return _COMPILING[language].format(**facts, left=_time_left(now.seconds_left, language))
    return (_FETCHING if now.total else _SOURCE)[language].format(**facts)


def _time_left(seconds: float | None, language: str) -> str:
    if seconds is None:
        return ""
    if seconds < 60:
        return _LAST_MINUTE[language]
    return _MINUTES[language].format(count=round(seconds / 60))


def share(now: Installing) -> float | None:
    """Return the part that is done, from 0 to 1; None where it is unknown."""
    return now.done / now.total if now.total else None


def begin(loader: Loader, overlays: Overlays, model_format: str = "") -> Overlay:
    """Have what the loader needs for models of that format installed in the background; the overlay to watch.

    LoaderUnavailable if no packages would help, Unsupported if there is no overlay for it.
    """
    reason = unavailable(loader, model_format)
    if reason is not None and not reason.install:
        raise reason
    overlay = overlay_of(loader, model_format)
    if overlay is None:
        raise Unsupported(_by_hand(loader))
    overlays.begin(overlay, again=reason is not None)
    return overlay


def being_installed(loader: Loader, model_format: str, overlays: Overlays) -> LoaderUnavailable | None:
    """Return the error for a load whose packages are just being installed; None if they are not."""
    overlay = overlay_of(loader, model_format)
    if overlay is None or not (now := overlays.view(overlay)).moving:
        return None
    at = {language: describe(now, overlay, language) for language in ("en", "zh")}
    reason = {
        "en": f"its packages are being installed ({at['en']}). Load the model when that is done.",
        "zh": f"正在安装所需的软件包（{at['zh']}）。请在完成后加载模型。",
    }
    return LoaderUnavailable(loader.name, reason)


def _missing(loader: Loader) -> dict[str, LoaderUnavailable]:
    """Why it does not run here, or not with models of some format; by format."""
    asked = {each: unavailable(loader, each) for each in ("", *loader.formats)}
    return {each: reason for each, reason in asked.items() if reason is not None}


def _by_hand(loader: Loader) -> Words:
    """What is to be typed, for a loader whose packages are the main environment's."""
    lines = "\n".join(dict.fromkeys(reason.install for reason in _missing(loader).values()))
    return {
        "en": f"The packages of {loader.name} belong into this program's own environment. Run:\n{lines}",
        "zh": f"{loader.name} 的软件包应安装到本程序的环境中，请运行：\n{lines}",
    }


def wait(loader: Loader, language: str, overlays: Overlays) -> None:
    """Install what the loader lacks for any format, telling on stderr how it goes.

    InstallFailed, LoaderUnavailable, Unsupported.
    """
    for model_format in _missing(loader):
        if unavailable(loader, model_format):  # one overlay may be for several formats
            now = _watched(begin(loader, overlays, model_format), language, overlays)
            if now.error is not None:
                raise now.error
    for reason in _missing(loader).values():
        raise reason
    _tell(_DONE[language].format(loader=loader.name))


def _watched(overlay: Overlay, language: str, overlays: Overlays) -> Installing:
    """Show on stderr how the installation goes, and return how it ended."""
    try:
        return watch(overlay, language, overlays)
    finally:  # Ctrl-C
        overlays.close()


def watch(overlay: Overlay, language: str, overlays: Overlays) -> Installing:
    """Show on stderr how an installation goes until it ends; return how it stands then."""
    line = ProgressLine()
    while (now := overlays.view(overlay)).moving:
        line.show(describe(now, overlay, language), share(now))
        time.sleep(_LOOK_SECONDS)
    line.clear()
    return now


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
