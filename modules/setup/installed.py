"""Versions and licenses of what is installed, facts of the machine, and the text of a bug report."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

from modules.core.product import PRODUCT, revision
from modules.loaders.registry import LOADERS
from modules.system import cpu_memory, gpus

_MAX_LICENSE = 60
_SHORT_COMMIT = 10
_CPU_MODEL = re.compile(r"^(?:model name|Hardware|Model)\s*:\s*(.+)$", re.MULTILINE)
REPORTED = (
    *("gradio", "fastapi", "uvicorn", "torch", "transformers", "accelerate", "peft", "bitsandbytes"),
    *("llama_cpp_python", "exllamav2", "auto_gptq", "gptqmodel", "autoawq"),
)
"""Distributions whose versions are part of a bug report."""


@dataclass(frozen=True)
class Package:
    """A distribution; `license` is "" if its metadata has none."""

    name: str
    version: str
    license: str


def installed_packages() -> dict[str, list[Package]]:
    """Return the packages of the main environment, under "", and those of each overlay by its name."""
    overlays = {loader.overlay.name: loader.overlay.folder for loader in LOADERS.values() if loader.overlay}
    found = {"": _packages(distributions())}
    for name, folder in sorted(overlays.items()):
        if packages := _packages(distributions(path=[str(folder)])):
            found[name] = packages
    return found


def _packages(found: Iterable[Distribution]) -> list[Package]:
    """Return the packages sorted by name; of several versions the first one, which is the one that is imported."""
    packages: dict[str, Package] = {}
    for distribution in found:
        name = distribution.metadata["Name"]
        if name:
            packages.setdefault(_key(name), Package(name, distribution.version, license_of(distribution)))
    return [packages[key] for key in sorted(packages)]


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "_", name).lower()


def license_of(distribution: Distribution) -> str:
    """Return the short name of a license from the metadata, "" if there is none."""
    metadata = distribution.metadata
    if expression := _first(distribution, "License-Expression"):
        return expression
    classifiers = metadata.get_all("Classifier") or []
    names = [line.rpartition(" :: ")[2] for line in classifiers if line.startswith("License :: ")]
    named = [name for name in names if name != "OSI Approved"]
    text = _first(distribution, "License")
    if text and len(text) <= _MAX_LICENSE and "\n" not in text and text.upper() != "UNKNOWN":
        return text
    return ", ".join(named)


def _first(distribution: Distribution, field: str) -> str:
    values = distribution.metadata.get_all(field) or [""]
    return str(values[0]).strip()


def machine() -> dict[str, str]:
    """Return facts of the program and the machine by key, for people and for bug reports; some may be missing."""
    backend, version = gpus.torch_build()
    found = gpus.detect_gpus()
    facts = {
        "program": f"{PRODUCT} {revision()[:_SHORT_COMMIT]}".strip(),
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "system": platform.platform(),
        "cpu": cpu_model(),
        "cores": f"{cpu_memory.physical_cores()} / {cpu_memory.logical_cores()}",
        "memory": f"{cpu_memory.total_memory() / 1e9:.1f} GB",
        "gpus": ", ".join(f"{gpu.name} ({gpu.total / 1e9:.1f} GB)" for gpu in found),
        "torch": f"{backend} {version}".strip() or "CPU",
        "llama_cpp": "GPU" if any(map(gpus.llamacpp_has_gpu_backend, _llama_folders())) else "CPU",
    }
    return {key: value for key, value in facts.items() if value}


def _llama_folders() -> list[Path | None]:
    folders: list[Path | None] = [None]
    rows = (loader for loader in LOADERS.values() if loader.gpus == "llama.cpp" and loader.overlay)
    return folders + [loader.overlay.folder for loader in rows if loader.overlay]


def cpu_model() -> str:
    """Return the name of the processor."""
    try:
        found = _CPU_MODEL.search(Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"))
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def report(facts: Mapping[str, str], packages: Mapping[str, list[Package]]) -> str:
    """Return the text of a bug report: the facts, and the versions of the packages that matter most."""
    lines = [f"{key}: {value}" for key, value in facts.items()]
    for overlay, found in packages.items():
        shown = [f"{package.name} {package.version}" for package in found if _key(package.name) in REPORTED]
        if shown:
            lines.append(f"{overlay or 'packages'}: {', '.join(shown)}")
    return "\n".join(lines)
