"""An overlay: a folder of packages that one loader's worker prefers to those of the main environment."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackagePath, distributions
from pathlib import Path

from modules.core.paths import ROOT

STAMP = ".installed"
_SITE_FOLDERS = ("site-packages", "dist-packages")  # not the folders on PYTHONPATH, such as an overlay


@dataclass(frozen=True)
class Overlay:
    """The folder `overlays/<name>` with the packages pinned in `requirements-<name>.txt`.

    Attributes:
        megabytes: Size on disk, in units of 10**6 bytes.
        root: Folder of the requirements file and of `overlays`.
        compiled: The distribution that is compiled on this machine unless the index has a wheel of it. If the main
            environment has the required version, that one is used instead of the overlay.
        build_megabytes: Disk space that compiling takes, besides `megabytes`.
        title: Name shown to users, if it is not `overlays/<name>`.
        prepared: Whether `server.py --prepare` installs it in the background.
        extends: The overlay whose requirements this one has, if it has no packages but a library that is compiled from
            the source of `compiled`.
    """

    name: str
    megabytes: int
    root: Path = ROOT
    compiled: str = ""
    build_megabytes: int = 0
    title: str = ""
    prepared: bool = False
    extends: str = ""

    @property
    def folder(self) -> Path:
        return self.root / "overlays" / self.name

    @property
    def requirements(self) -> Path:
        return self.root / f"requirements-{self.extends or self.name}.txt"

    @property
    def build_folder(self) -> Path:
        """Build files that an interrupted compilation resumes from."""
        return self.root / "overlays" / f".build-{self.name}"

    @property
    def display_name(self) -> str:
        return self.title or f"overlays/{self.name}"

    @property
    def pins(self) -> list[str]:
        """The requirements as "name==version"."""
        lines = self.requirements.read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]

    @property
    def compiled_pin(self) -> str:
        """The requirement that is compiled; "" if none is."""
        return next((pin for pin in self.pins if pin.startswith(f"{self.compiled}==")), "") if self.compiled else ""

    @property
    def in_environment(self) -> bool:
        """Whether the main environment has the required version of the compiled distribution.

        Users install one there to have, for example, a CUDA build.
        """
        if not self.compiled:
            return False
        paths = [path for path in sys.path if Path(path).name in _SITE_FOLDERS]
        package = next(iter(distributions(name=self.compiled, path=paths)), None)
        return package is not None and f"{self.compiled}=={package.version.partition('+')[0]}" == self.compiled_pin

    @property
    def package_count(self) -> int:
        """Number of packages to install."""
        return len(self.pins)

    @property
    def fingerprint(self) -> str:
        """Content of the stamp file of a current overlay: Python version, as packages are compiled for one, and the
        requirements' SHA-256."""
        major, minor = sys.version_info[:2]
        return f"{major}.{minor} {hashlib.sha256(self.requirements.read_bytes()).hexdigest()}"

    @property
    def is_installed(self) -> bool:
        """Whether the overlay is installed completely for the present requirements, according to its stamp file."""
        try:
            return (self.folder / STAMP).read_text(encoding="utf-8") == self.fingerprint
        except (OSError, UnicodeDecodeError):
            return False

    def find_damage(self) -> str:
        """Return a file that is missing or has another size than when it was installed; "" if all are sound.

        Returns the name of the requirements file if whole packages are missing.
        """
        packages = list(distributions(path=[str(self.folder)]))
        if len(packages) < self.package_count:
            return self.requirements.name
        return next((str(path) for package in packages for path in self._changed_files(package)), "")

    def _changed_files(self, package: Distribution) -> Iterator[PackagePath]:
        for path in package.files or ():
            # Scripts lie outside the folder; files without a recorded size, such as bytecode, may change.
            if ".." in path.parts or path.size is None:
                continue
            try:
                if (self.folder / path).stat().st_size != path.size:
                    yield path
            except OSError:
                yield path

    def invalidate(self) -> None:
        """Mark the overlay as not installed."""
        (self.folder / STAMP).unlink(missing_ok=True)
