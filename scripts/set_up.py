"""Set the program up: `python scripts/set_up.py start [flags]` for start.sh, `... tests` for test.sh.

Run by any suitable Python, before .venv exists.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)

from modules.core.errors import WebUIError  # noqa: E402
from modules.setup import early_build  # noqa: E402
from modules.setup.environment import Environment  # noqa: E402
from modules.system.terminal import say  # noqa: E402


def start(flags: list[str]) -> None:
    """Make .venv ready, and become the server, which prepares the rest while its page is up. The longest part of that
    rest, compiling llama.cpp, begins beside the first part."""
    environment = Environment(ROOT)
    environment.ensure("requirements.txt", while_installing=early_build.start)
    command = [str(environment.python), str(ROOT / "server.py"), "--prepare", *flags]
    os.execv(command[0], command)


def tests() -> None:
    """Install what the tests need besides the overlays and the demo model."""
    environment = Environment(ROOT)
    environment.ensure("requirements.txt")
    environment.ensure("requirements-test.txt", "-c", str(ROOT / "requirements.txt"))


def main(words: list[str]) -> int:
    try:
        start(words[1:]) if words[0] == "start" else tests()
    except WebUIError as error:
        say({language: error.say(language) for language in ("zh", "en")}, sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130  # an interruption is no failure to explain
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
