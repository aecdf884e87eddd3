"""Time until the page is served, compared with `python -c "import gradio"`, and the main process's memory then.

Ours: from the start of `python server.py` until /zh/ is received. Baseline: a process that imports Gradio and exits.
Memory is that of the main process: when the page has just been sent and, in one more run, after Chromium has shown the
page for some seconds, if Chromium and playwright are installed. /proc also shows whether torch is loaded.
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

MAX_EXTRA_SECONDS = -0.5
MAX_MEMORY = 170 * MB
ROUNDS = 5
OPEN_SECONDS = 5.0
BROWSER_FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]


@dataclass(frozen=True)
class Start:
    """One start of the program: seconds until the page was received, and the main process's memory and libraries."""

    seconds: float
    memory: Memory
    packages: set[str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    gradio, starts = [], []
    with session(f"Start until the page answers: {args.rounds} rounds, alternating"):
        for _ in range(args.rounds + 1):
            gradio.append(import_gradio())
            starts.append(start())
    browser = browser_path()
    shown = [start(browser)] if browser else []
    report(gradio[1:], starts[1:], shown)  # without the first round, which reads files from disk


def import_gradio() -> float:
    began = time.perf_counter()
    # Gradio's analytics may wait for the network, which would make the baseline too slow.
    environment = os.environ | {"GRADIO_ANALYTICS_ENABLED": "False"}
    subprocess.run([sys.executable, "-c", "import gradio"], check=True, env=environment)
    return time.perf_counter() - began


def start(browser: str = "") -> Start:
    """Start and stop the program. With a browser, memory is measured after it has shown the page for some seconds."""
    with Program() as program:
        page = program.wait_for("/zh/")
        seconds = time.perf_counter() - program.began
        if b"gradio" not in page or b"<html" not in page:
            sys.exit(f"/zh/ is not a Gradio page: {page[:200]!r}")
        if browser:
            show_page(browser, f"{program.url}/zh/")
        return Start(seconds, memory(program.pid), mapped_packages(program.pid))


def browser_path() -> str:
    """Return the path of Chromium, or "" if it or playwright is missing."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return ""
    return system_packages.browser() or ""


def show_page(browser: str, url: str) -> None:
    """Open the page for some seconds, because it sends further requests after its first response."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=BROWSER_FLAGS)
        page = chromium.new_page()
        page.goto(url)
        page.locator("#tx-page-chat").wait_for()
        page.wait_for_timeout(OPEN_SECONDS * 1000)
        chromium.close()


def report(gradio: list[float], starts: list[Start], shown: list[Start]) -> None:
    sides = {"server.py until the page": [run.seconds for run in starts], "import gradio": gradio}
    rows = [(name, statistics.median(seconds), min(seconds), max(seconds)) for name, seconds in sides.items()]
    table(["seconds", "median", "best", "worst"], rows)
    groups = {"page sent": starts, "page shown in Chromium": shown}
    memory_rows = [(name, *median_memory(group)) for name, group in groups.items() if group]
    table(["main process, MB", "RSS", "PSS"], memory_rows)
    extra = rows[0][1] - rows[1][1]
    measured = f"{extra:+.2f} s (ratio {rows[0][1] / rows[1][1]:.2f})"
    verdict("Extra time until the page", measured, f"{MAX_EXTRA_SECONDS:+.1f} s at most", extra <= MAX_EXTRA_SECONDS)
    largest = max(row[1] for row in memory_rows)
    verdict("Memory", f"{largest:.0f} MB", f"{MAX_MEMORY / MB:.0f} MB at most", largest * MB <= MAX_MEMORY)
    packages = set.union(*(run.packages for run in [*starts, *shown]))
    torch = "torch" in packages
    verdict("torch", "loaded" if torch else "not loaded", "not loaded", not torch)
    print(f"Packages with native libraries in the process: {', '.join(sorted(packages))}")


def median_memory(starts: list[Start]) -> tuple[float, float]:
    resident = statistics.median(run.memory.resident for run in starts)
    return resident / MB, statistics.median(run.memory.proportional for run in starts) / MB


if __name__ == "__main__":
    main()
