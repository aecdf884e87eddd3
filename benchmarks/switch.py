"""Time to redraw the option form after choosing another loader: from the change to the frame that shows it.

Measured in Chromium on the page of a running `server.py`. The script that the page runs after a choice is called with
one loader after another. Two frames later, exactly the options of that loader must be visible.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from figures import session, table, verdict
from playwright.sync_api import sync_playwright
from program import ROOT, Program

sys.path.insert(0, str(ROOT))
from modules.loaders.registry import LOADERS
from modules.ui.model.options_card import SWITCH_LOADER
from modules.ui.widgets.option_form import slug
from scripts import system_packages

MAX_MILLISECONDS = 150.0
ROUNDS = 10
OPEN_ALL = "document.querySelectorAll('#tx-opts .label-wrap:not(.open)').forEach((label) => label.click())"
MEASURE = """async ([source, name, slug]) => {
  const frame = () => new Promise(requestAnimationFrame);
  const began = performance.now();
  eval(source)(name);
  await frame(); await frame();
  const milliseconds = performance.now() - began;
  const wrong = [...document.querySelectorAll("#tx-opts .tx-opt")].filter(
    (option) => (option.offsetParent !== null) !== option.classList.contains("ld-" + slug));
  return [milliseconds, wrong.length];
}"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    args = parser.parse_args()
    with session("Option form after choosing another loader"), Program() as program, sync_playwright() as playwright:
        program.wait_for("/en/")
        browser = playwright.chromium.launch(
            executable_path=system_packages.browser(), args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(locale="en-US")
        page.goto(f"{program.url}/en/")
        page.get_by_role("link", name="Model", exact=True).click()
        page.locator("#tx-opt-n_ctx").wait_for()
        page.evaluate(OPEN_ALL)
        page.wait_for_timeout(1000)
        times: dict[str, list[float]] = {name: [] for name in LOADERS}
        for _ in range(args.rounds):
            for name in LOADERS:
                milliseconds, wrong = page.evaluate(MEASURE, [SWITCH_LOADER, name, slug(name)])
                assert not wrong, f"{wrong} options have the wrong visibility for {name}"
                times[name].append(milliseconds)
        browser.close()
    rows = [(name, statistics.median(durations), max(durations)) for name, durations in times.items()]
    table(["milliseconds", "median", "longest"], rows)
    longest = max(row[2] for row in rows)
    verdict("Longest redraw", f"{longest:.0f} ms", f"{MAX_MILLISECONDS:.0f} ms at most", longest <= MAX_MILLISECONDS)


if __name__ == "__main__":
    main()
