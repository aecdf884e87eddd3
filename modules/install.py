"""What a loader needs is installed: by `--install` in the terminal, or by a button of the page."""

from __future__ import annotations

import sys
import time

from modules.errors import LoaderUnavailable, Unsupported, Words
from modules.loaders import Loader, overlay_of, unavailable
from modules.overlay import Overlay
from modules.overlays import Installing, Overlays

_LOOK_SECONDS, _LINE_SECONDS = 0.2, 10.0

_WAITING: Words = {"en": "Another process is installing; waiting for it ...", "zh": "另一进程正在安装，等待其完成……"}
_AT_IT: Words = {"en": "{done} of {total} packages fetched: {says}", "zh": "已获取 {done}/{total} 个软件包：{says}"}
_DONE: Words = {"en": "{loader} is ready.", "zh": "{loader} 已可使用。"}


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
    """How the installation has ended."""
    told, when = Installing("absent"), 0.0
    try:
        while (now := overlays.view(overlay)).moving:
            if (now.state, now.done) != (told.state, told.done) or time.monotonic() > when + _LINE_SECONDS:
                told, when = now, time.monotonic()
                _tell(_line(now, language))
            time.sleep(_LOOK_SECONDS)
    finally:  # Ctrl-C
        overlays.close()
    return now


def _line(now: Installing, language: str) -> str:
    if now.state == "waiting":
        return _WAITING[language]
    return _AT_IT[language].format(done=now.done, total=now.total, says=now.says)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
