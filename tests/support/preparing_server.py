"""server.py before llama.cpp is compiled: `python -m tests.support.preparing_server <folder> [flags]`.

Instead of llama.cpp, it compiles the small package of tests/support/package_index.py, pinned in <folder>, where its
overlay is installed, too. Everything else is real: pip, the page, and the engine, which uses the tests' llama_cpp.
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

import server  # noqa: E402  (copies the rows above when it is imported)

if __name__ == "__main__":
    sys.exit(server.main(sys.argv[2:]))
