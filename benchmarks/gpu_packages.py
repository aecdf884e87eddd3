"""Collect in a folder what `gpu.py` installs on a machine without a network: wheels and sources for its Python.

    python benchmarks/gpu_packages.py .gpu --python python3.12

`<folder>/main` gets what that machine's own environment lacks, the folder itself what the overlays are made of. Three
packages are cut down, because a working tree of at most 64 MiB travels: bitsandbytes to the library of one version of
CUDA, gekko to its Python part, and the source of llama-cpp-python to what is compiled. CMake and ninja are there.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

from program import ROOT

PYTHON, CUDA = "3.12", "130"
MAIN = ("bitsandbytes", "ruamel.yaml", "llguidance")
"""Packages of requirements.txt that the machine lacks."""
COMPILED = "llama-cpp-python"
"""Compiled on the machine with the card, from its source."""
OVERLAYS = ("llamacpp", "exllamav2", "gptq", "legacy")
BUILD_TOOLS = ("scikit-build-core", "pathspec", "packaging", "setuptools", "wheel")
PLATFORMS = ("manylinux1_x86_64", "manylinux2014_x86_64", *(f"manylinux_2_{minor}_x86_64" for minor in range(5, 40)))
UNUSED = re.compile(
    r"/\.git/|/vendor/llama\.cpp/(models|docs|tests|examples|media|benches|gguf-py|pocs|conversion|\.github|\.devops)/"
    r"|/vendor/llama\.cpp/tools/(?!mtmd/)[^/]+/|/vendor/llama\.cpp/vendor/cpp-httplib/|-[^/]*/(docs|examples|tests|docker)/"
)
LIMIT = 64 << 20
PIP_SECONDS = 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--python", default=f"python{PYTHON}", help="builds wheels of what has none")
    args = parser.parse_args()
    folder, python = args.folder, args.python
    (folder / "main").mkdir(parents=True, exist_ok=True)
    pins = dict(pinned("requirements.txt"))
    wanted = [pin for overlay in OVERLAYS for _, pin in pinned(f"requirements-{overlay}.txt")]
    missing = [pin for pin in [pins[name] for name in MAIN] if not fetch(folder / "main", pin, python)]
    missing += [pin for pin in [*dict.fromkeys(wanted), *BUILD_TOOLS] if not fetch(folder, pin, python)]
    for wheel in (folder / "main").glob("bitsandbytes-*.whl"):
        keep_members(wheel, lambda name: not re.search(rf"libbitsandbytes_(?!cpu|cuda{CUDA}\.)", name))
    for wheel in folder.glob("gekko-*.whl"):
        keep_members(wheel, lambda name: "/bin/" not in name)
    for source in folder.glob("llama_cpp_python-*.tar.gz"):
        cut_source(source)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if missing:
        print("not found:", ", ".join(missing))
    print(f"{size / (1 << 20):.1f} MiB, with the working tree at most {LIMIT >> 20} may travel")


def pinned(file: str) -> Iterator[tuple[str, str]]:
    """Yield names and requirements of a file of requirements, those for Python 3.12 alone."""
    for line in (ROOT / file).read_text(encoding="utf-8").splitlines():
        requirement, _, marker = line.partition("#")[0].partition(";")
        if requirement.strip() and "<" not in marker:
            yield re.split(r"[=<>]", requirement.strip())[0], requirement.strip()


def fetch(folder: Path, requirement: str, python: str) -> bool:
    """Get a wheel for that machine, or build one, or get the source. Return whether one of them succeeded."""
    words = ["--quiet", "--no-deps", requirement]
    target = ["--only-binary=:all:", "--python-version", PYTHON, "--implementation", "cp"]
    target += [word for platform in PLATFORMS for word in ("--platform", platform)]
    download = [sys.executable, "-m", "pip", "download", "--dest", str(folder)]
    build = [python, "-m", "pip", "wheel", "--wheel-dir", str(folder)]
    commands = ([*download, *target], download if requirement.startswith(COMPILED) else build, download)
    environment = {**os.environ, "BUILD_CUDA_EXT": "0"}  # read by auto-gptq, whose kernels are not built
    for command in commands:
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run([*command, *words], env=environment, capture_output=True, check=True, timeout=PIP_SECONDS)
            return True
    return False


def keep_members(wheel: Path, keep: Callable[[str], bool]) -> None:
    """Rewrite a wheel with the files that `keep` accepts; its list of files as well."""
    part = wheel.with_suffix(".part")
    with zipfile.ZipFile(wheel) as before, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as after:
        for entry in before.infolist():
            content = before.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if keep(line.partition(",")[0])).encode()
            if keep(entry.filename):
                after.writestr(entry, content)
    part.replace(wheel)


def cut_source(archive: Path) -> None:
    """Rewrite the source of llama-cpp-python without what is not compiled."""
    part = archive.with_suffix(".part")
    with tempfile.TemporaryDirectory() as temporary, tarfile.open(archive) as before:
        before.extractall(temporary, filter="data")
        (folder,) = Path(temporary).iterdir()
        with tarfile.open(part, "w:gz") as after:
            for file in sorted(path for path in folder.rglob("*") if path.is_file()):
                name = f"{folder.name}/{file.relative_to(folder)}"
                if not UNUSED.search(name):
                    after.add(file, name)
    shutil.move(part, archive)


if __name__ == "__main__":
    main()
