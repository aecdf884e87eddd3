"""How soon the page is there, and what the main process holds then, against `python -c "import gradio"`.

Ours: from the start of `python server.py` to the whole of /zh/. Theirs: a process that imports Gradio and ends. Memory
is that of the main process: with the page just sent, and of one more start after Chromium has shown the page for some
seconds, if that and playwright are there. That no torch is in it is read from /proc.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass

from figures import MB, session, table, verdict
from program import ROOT, Memory, Program, mapped_packages, memory

sys.path.insert(0, str(ROOT))
from scripts import system_packages

FLOOR_SECONDS = 2.0
FLOOR_MEMORY = 250 * MB
ROUNDS = 5
OPEN_SECONDS = 5.0
BROWSER_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@dataclass(frozen=True)
class Start:
    """One start of the program: seconds until the page was there, and what the main process held then."""

    seconds: float
    memory: Memory
    packages: set[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    gradio, starts = [], []
    with session(f"Start until the page answers: {args.rounds} rounds, the sides in turn"):
        for _ in range(args.rounds + 1):
            gradio.append(import_gradio())
            starts.append(start())
    browser = browser_path()
    browsed = [start(browser)] if browser else []
    report(gradio[1:], starts[1:], browsed)  # without the first round, in which files come from the disk


def import_gradio() -> float:
    began = time.perf_counter()
    # Without its analytics, which may wait for the network: that would be a head start for us.
    environment = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False"}
    subprocess.run([sys.executable, "-c", "import gradio"], check=True, env=environment)
    return time.perf_counter() - began


def start(browser: str = "") -> Start:
    """Start the program, and end it. With a browser, memory is taken after that has shown the page for a while."""
    with Program() as program:
        page = program.wait_for("/zh/")
        seconds = time.perf_counter() - program.began
        if b"gradio" not in page or b"<html" not in page:
            sys.exit(f"/zh/ is not the page: {page[:200]!r}")
        if browser:
            look_at(browser, f"{program.url}/zh/")
        return Start(seconds, memory(program.pid), mapped_packages(program.pid))


def browser_path() -> str:
    """Of Chromium, or "" if it or what drives it is missing."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return ""
    return system_packages.browser() or ""


def look_at(browser: str, url: str) -> None:
    """Open the page and leave it open for a while: it asks for more than its first answer."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=BROWSER_FLAGS)
        page = chromium.new_page()
        page.goto(url)
        page.get_by_role("tab").first.wait_for()
        page.wait_for_timeout(OPEN_SECONDS * 1000)
        chromium.close()


def report(gradio: list[float], starts: list[Start], browsed: list[Start]) -> None:
    ours = [each.seconds for each in starts]
    sides = {"server.py until the page": ours, "import gradio": gradio}
    rows = [(name, statistics.median(each), min(each), max(each)) for name, each in sides.items()]
    table(["seconds", "median", "best", "worst"], rows)
    held = {"page sent": starts, "page shown in Chromium": browsed}
    amounts = [(name, *median_memory(each)) for name, each in held.items() if each]
    table(["main process, MB", "RSS", "PSS"], amounts)
    more = rows[0][1] - rows[1][1]
    told = f"{more:+.2f} s (ratio {rows[0][1] / rows[1][1]:.2f})"
    verdict("The page takes longer by", told, f"{FLOOR_SECONDS:+.1f} s at most", more <= FLOOR_SECONDS)
    most = max(amount[1] for amount in amounts)
    verdict("Memory", f"{most:.0f} MB", f"{FLOOR_MEMORY / MB:.0f} MB at most", most * MB <= FLOOR_MEMORY)
    packages = set.union(*(each.packages for each in [*starts, *browsed]))
    torch = "torch" in packages
    verdict("torch", "mapped" if torch else "not in the process", "none of it", not torch)
    print(f"native code in it: {', '.join(sorted(packages))}")


def median_memory(starts: list[Start]) -> tuple[float, float]:
    resident = statistics.median(each.memory.resident for each in starts)
    return resident / MB, statistics.median(each.memory.proportional for each in starts) / MB


if __name__ == "__main__":
    main()
