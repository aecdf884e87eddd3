"""Compare the prompts of published chat templates, byte for byte, with those that transformers renders.

    .venv/bin/python benchmarks/published_templates.py FOLDER

FOLDER has chat templates as *.jinja, such as models/templates of a clone of llama.cpp. Each renders ten conversations,
among them one with tools, one without thinking and one to be continued. A refusal with the same reason is equal.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from figures import table, verdict
from program import ROOT

sys.path.insert(0, str(ROOT))
from tests.support.template_comparison import compare


def main(folder: Path) -> None:
    sources = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
    if not sources:
        sys.exit(f"{folder} has no *.jinja")
    rows, different, total = [], 0, 0
    with tempfile.TemporaryDirectory() as temporary:
        for name, cases in compare(sources, Path(temporary) / "tiny").items():
            unequal = [case for case, (ours, theirs) in cases.items() if ours != theirs]
            refused = [case for case, (ours, _) in cases.items() if isinstance(ours, list)]
            rows.append((name, len(cases) - len(unequal), len(refused), ", ".join(unequal)))
            different, total = different + len(unequal), total + len(cases)
    table(("template", "equal", "of them refused", "different"), rows)
    verdict("prompts that differ", f"{different} of {total}", "0", not different)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
