"""Set up the application: `python scripts/set_up.py start [flags]` for start.sh, `... tests` for test.sh.

Runs on any supported Python, before .venv exists.
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
from modules.system.terminal import prepare_streams, say  # noqa: E402


def start(flags: list[str]) -> None:
    """Set up .venv, then replace this process with the server, which installs the remaining packages in the background.

    The slowest of these, llama.cpp, starts to compile while the packages of .venv are still being installed.
    """
    environment = Environment(ROOT)
    environment.ensure("requirements.txt", while_installing=early_build.start)
    command = [str(environment.python), str(ROOT / "server.py"), "--prepare", *flags]
    os.execv(command[0], command)


def tests() -> None:
    """Install the packages that the tests need, except overlays."""
    environment = Environment(ROOT)
    environment.ensure("requirements.txt")
    environment.ensure("requirements-test.txt", "-c", str(ROOT / "requirements.txt"))


def main(arguments: list[str]) -> int:
    prepare_streams()
    try:
        start(arguments[1:]) if arguments[0] == "start" else tests()
    except WebUIError as error:
        say({language: error.say(language) for language in ("zh", "en")}, sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
