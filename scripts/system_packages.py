"""Install the missing system packages for the tests with apt: a compiler, a browser and its fonts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:  # tests and benchmarks import `browser` from here
    sys.path.insert(0, str(ROOT))

from modules.setup.llama_cpp_build import has_compiler  # noqa: E402
from modules.system.terminal import say  # noqa: E402

LOG = ROOT / "logs" / "setup.log"
BROWSERS = ("chromium-headless-shell", "chromium")
"""Names of both Debian packages and programs. The headless shell opens a page a third faster."""


def browser() -> str | None:
    """Return the path of the browser: that of the environment variable CHROMIUM, or an installed one."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)


def missing() -> list[str]:
    packages = [] if has_compiler() else ["g++"]
    if not any(map(shutil.which, BROWSERS)):
        packages += [BROWSERS[0], "fonts-noto-cjk", "fonts-noto-color-emoji"]
    return packages


def install(packages: list[str]) -> bool:
    """Run apt-get, logging its output; return whether it succeeded. sudo may ask for a password only on a terminal."""
    sudo = [] if os.geteuid() == 0 else ["sudo"] if sys.stdin.isatty() else ["sudo", "-n"]
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("a", encoding="utf-8") as log:
        for command in (["update"], ["install", "-y", "--no-install-recommends", *packages]):
            try:
                subprocess.run([*sudo, "apt-get", *command], env=environment, stdout=log, stderr=log, check=True)
            except (OSError, subprocess.CalledProcessError):
                return False
    return True


def main() -> int:
    packages = missing()
    if not packages:
        return 0
    names = " ".join(packages)
    say({"en": f"Installing {names} with apt ...", "zh": f"正在用 apt 安装 {names}……"})
    if install(packages):
        return 0
    failure = {
        "en": f"apt-get could not install {names}, which the tests need (root or sudo is required). Install them by "
        f"hand. See {LOG} for details.",
        "zh": f"测试需要 {names}，但 apt-get 未能安装它们（需要 root 或 sudo）。请手动安装。详情见 {LOG}。",
    }
    say(failure, sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
