"""Download the demo model into models/ if there is no model: `python scripts/demo_model.py`, for test.sh."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from modules.core.errors import WebUIError  # noqa: E402
from modules.setup import demo_model  # noqa: E402
from modules.system.terminal import say  # noqa: E402

_DOWNLOADING = {"en": "Downloading the demo model (98 MB) ...", "zh": "正在下载演示模型（98 MB）……"}


def main(folder: Path) -> int:
    if demo_model.has_model(folder):
        return 0
    say(_DOWNLOADING)
    try:
        demo_model.download(folder / demo_model.NAME)
    except WebUIError as error:
        say({language: error.say(language) for language in ("zh", "en")}, sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(ROOT / "models"))
