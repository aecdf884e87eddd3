"""An overlay: packages of other versions than the main environment's, in a folder that one loader's worker prefers."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path

from modules.core.paths import ROOT

STAMP = ".installed"
_SITE_FOLDERS = ("site-packages", "dist-packages")  # not what PYTHONPATH adds, such as an overlay


@dataclass(frozen=True)
class Overlay:
    """`megabytes` (10**6 bytes) are those on the disk. In `root` lie the requirements and the folder of overlays.

    `compiled` is the distribution among its requirements that is compiled here unless the index has a wheel of it,
    which takes `build_megabytes` besides. Where the main environment has the required version, that one is used.
    `title` is what people call it, where that is not the name of its folder.
    """

    name: str
    megabytes: int
    root: Path = ROOT
    compiled: str = ""
    build_megabytes: int = 0
    title: str = ""

    @property
    def folder(self) -> Path:
        return self.root / "overlays" / self.name

    @property
    def requirements(self) -> Path:
        return self.root / f"requirements-{self.name}.txt"

    @property
    def build_folder(self) -> Path:
        """Where a package that is compiled keeps what an interrupted build can go on with."""
        return self.root / "overlays" / f".build-{self.name}"

    @property
    def display_name(self) -> str:
        return self.title or f"overlays/{self.name}"

    @property
    def pins(self) -> list[str]:
        """Its requirements, "name==version" each."""
        lines = self.requirements.read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]

    @property
    def compiled_pin(self) -> str:
        """The requirement that is compiled; "" if none is."""
        return next((pin for pin in self.pins if pin.startswith(f"{self.compiled}==")), "") if self.compiled else ""

    @property
    def in_environment(self) -> bool:
        """Whether the main environment has the required version of what would be compiled, such as a build for CUDA
        that the user has installed."""
        if not self.compiled:
            return False
        paths = [path for path in sys.path if Path(path).name in _SITE_FOLDERS]
        found = next(iter(distributions(name=self.compiled, path=paths)), None)
        return found is not None and f"{self.compiled}=={found.version.partition('+')[0]}" == self.compiled_pin

    @property
    def packages(self) -> int:
        """How many there are to install."""
        return len(self.pins)

    @property
    def fingerprint(self) -> str:
        """What the stamp of an overlay says that is up to date: compiled packages are of one version of Python."""
        major, minor = sys.version_info[:2]
        return f"{major}.{minor} {hashlib.sha256(self.requirements.read_bytes()).hexdigest()}"

    @property
    def whole(self) -> bool:
        """Whether it is there, complete and up to date, as far as is known."""
        try:
            return (self.folder / STAMP).read_text(encoding="utf-8") == self.fingerprint
        except (OSError, UnicodeDecodeError):
            return False

    def damage(self) -> str:
        """What of it is no longer as it was installed: a file, by its size, or what has no files; "" if nothing is."""
        found = list(distributions(path=[str(self.folder)]))
        if len(found) < self.packages:
            return self.requirements.name
        return next((str(path) for each in found for path in self._changed(each)), "")

    def _changed(self, package: Distribution) -> Iterator[PackagePath]:
        for path in package.files or ():
            if ".." in path.parts or path.size is None:  # scripts, which pip puts elsewhere; what changes anyway
                continue
            try:
                if (self.folder / path).stat().st_size != path.size:
                    yield path
            except OSError:
                yield path

    def distrust(self) -> None:
        """It is whole no longer."""
        (self.folder / STAMP).unlink(missing_ok=True)
