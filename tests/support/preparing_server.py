"""server.py before llama.cpp is compiled: `python -m tests.support.preparing_server <folder> [flags]`.

A stand-in for the compilation takes STEPS steps, of which the number in <folder>/allowed may be done; it fails with the
text of <folder>/failure while that file exists. Everything else is real: the state of the installation, the page, and
the engine, which uses the tests' llama_cpp. pip and the compilation of a package are tested in tests/setup.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from modules.loaders import registry
from modules.loaders.overlay import Overlay

if TYPE_CHECKING:
    from modules.setup import overlay_installer
    from modules.setup.pip import Pip

STEPS = 8
METADATA = "Metadata-Version: 2.1\nName: compiled\nVersion: 1.0\n"


def compile_in_steps(job: overlay_installer._Job, target: Path, _pip: Pip) -> None:
    """Fill `target` with the package "compiled", after as many steps as are allowed."""
    from modules.setup.overlay_installer import Installation
    from modules.setup.pip import PipFailed, Stopped

    folder = job.overlay.folder.parents[1]
    for step in range(STEPS):
        while step >= int((folder / "allowed").read_text() or 0):
            if job.stop.wait(0.05):
                raise Stopped
        if (folder / "failure").exists():
            raise PipFailed((folder / "failure").read_text())
        job.update(Installation("installing", step + 1, STEPS, phase="compiling"))
    for name, content in (("compiled/__init__.py", ""), ("compiled-1.0.dist-info/METADATA", METADATA)):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(content)


def _use_stand_ins(folder: Path) -> None:
    overlay = Overlay("of-test", 1, folder, compiled="compiled", title="llama.cpp", prepared=True)
    rows = cast(dict[str, registry.Loader], registry.LOADERS)
    for name, row in rows.items():
        if row.overlay is not None and row.overlay.prepared:
            rows[name] = dataclasses.replace(row, packages=("compiled",), overlay=overlay)


if __name__ == "__main__":
    _use_stand_ins(Path(sys.argv[1]))

    import server  # it reads the loaders when it is imported
    from modules.setup import overlay_installer

    overlay_installer._install_packages = compile_in_steps
    sys.exit(server.main(sys.argv[2:]))
