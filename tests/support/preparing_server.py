"""server.py before llama.cpp is compiled: `python -m tests.support.preparing_server <folder> [flags]`.

The package that is compiled is the small one of tests/support/package_index.py, pinned in <folder>; its overlay is
there, too. Everything else is real: pip, the page, and the engine, whose llama_cpp comes from where the tests have it.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import cast

from modules.loaders import registry
from modules.loaders.overlay import Overlay

folder = Path(sys.argv[1])
stand_in = Overlay("of-test", 1, folder, compiled="compiled", title="llama.cpp", prepared=True)
rows = cast(dict[str, registry.Loader], registry.LOADERS)
for name, row in rows.items():
    if row.overlay is not None and row.overlay.prepared:
        rows[name] = dataclasses.replace(row, packages=("compiled",), overlay=stand_in)

import server  # noqa: E402  (it takes the names of above as it is imported)

if __name__ == "__main__":
    sys.exit(server.main(sys.argv[2:]))
