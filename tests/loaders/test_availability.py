"""Availability of loaders: missing packages, overlays and GPUs."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from modules.core.paths import ROOT
from modules.loaders import availability
from modules.loaders.availability import overlay_of, unavailable
from modules.loaders.overlay import STAMP, Overlay
from modules.loaders.registry import LOADERS, Extra

AVAILABLE = dataclasses.replace(
    LOADERS["llama.cpp"], engine="modules.core.errors:Any", packages=("json",), overlay=None
)


def test_a_loader_with_its_packages_is_available() -> None:
    assert unavailable(AVAILABLE) is None


def test_a_missing_package_is_named_with_the_install_command() -> None:
    reason = unavailable(dataclasses.replace(AVAILABLE, packages=("json", "no_such_package"), install="pip install it"))
    assert reason is not None
    assert reason.install == "pip install it"
    for language in ("en", "zh"):
        assert "no_such_package" in reason.say(language)
        assert "pip install it" in reason.say(language)
        assert "json" not in reason.say(language)


def test_a_missing_extra_affects_only_its_formats() -> None:
    extra = Extra(("gptq", "awq"), ("no_such_package",), "pip install that")
    loader = dataclasses.replace(AVAILABLE, extras=(extra,))
    assert unavailable(loader) is None and unavailable(loader, "safetensors") is None
    reason = unavailable(loader, "awq")
    assert reason is not None and reason.install == "pip install that"
    assert "no_such_package" in reason.say("en") and "no_such_package" in reason.say("zh")


def test_a_package_in_the_loaders_own_overlay_counts_as_installed(tmp_path: Path) -> None:
    overlay = Overlay("special", 1, tmp_path)
    overlay.requirements.touch()
    package = overlay.folder / "no_such_package"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (overlay.folder / STAMP).write_text(overlay.fingerprint)
    loader = dataclasses.replace(AVAILABLE, packages=("no_such_package",))
    assert unavailable(dataclasses.replace(loader, overlay=overlay)) is None
    assert unavailable(loader) is not None


def test_a_module_of_a_missing_package_is_not_installed() -> None:
    assert availability.is_installed("json.decoder") and not availability.is_installed("json.no_such_module")
    assert not availability.is_installed("no_such_package.module")


def test_a_format_that_only_loaders_for_gpus_support_has_no_alternative(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(availability, "has_nvidia_gpu", lambda: False)
    reason = availability._no_cuda("exl2")
    assert reason["en"].endswith("none was found. No other loader supports EXL2 models.")
    assert reason["zh"].endswith("没有其他加载器支持 EXL2 模型。")
    assert "Load this model with AutoGPTQ or Transformers instead." in availability._no_cuda("gptq")["en"]


# -- CUDA: in a separate process, because the result is cached

NO_GPU = "it needs an NVIDIA GPU with CUDA, and none was found"


def unavailable_reason(folder: Path, model_format: str, language: str = "en", **environment: str) -> str:
    """Return why ExLlamav2 is unavailable in a process whose PATH is `folder`; "nothing" if it is available."""
    program = (
        "import sys\n"
        "from modules.loaders.availability import unavailable\n"
        "from modules.loaders.registry import LOADERS\n"
        "error = unavailable(LOADERS['ExLlamav2'], sys.argv[1]); print(error.say(sys.argv[2]) if error else 'nothing')"
    )
    variables = {"PATH": str(folder), "PYTHONIOENCODING": "utf-8", **environment}
    command = [sys.executable, "-c", program, model_format, language]
    return subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, encoding="utf-8", check=True
    ).stdout.strip()


def test_without_an_nvidia_gpu_exllamav2_names_loaders_to_use_instead(tmp_path: Path) -> None:
    reason = unavailable_reason(tmp_path, "gptq")
    assert NO_GPU in reason and "Transformers instead." in reason and "ExLlamav2_HF" not in reason
    assert "--install" not in reason, "a loader that cannot run is not offered for installation"
    assert "No other loader supports EXL2 models" in unavailable_reason(tmp_path, "exl2")
    assert unavailable_reason(tmp_path, "").endswith(f"{NO_GPU}.")
    assert "此模型可改用" in unavailable_reason(tmp_path, "gptq", "zh") and "没有其他加载器" in unavailable_reason(
        tmp_path, "exl2", "zh"
    )


def test_with_an_nvidia_gpu_or_installed_kernels_exllamav2_lacks_only_packages(
    tmp_path: Path,
) -> None:
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU-1, A card, 24000, 23000'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert NO_GPU not in unavailable_reason(tmp_path, "gptq")
    (tmp_path / "nvidia-smi").unlink()
    assert NO_GPU not in unavailable_reason(
        tmp_path, "gptq", PYTHONPATH=str(ROOT / "tests" / "support" / "exllamav2_standin")
    )
    assert NO_GPU in unavailable_reason(tmp_path, "gptq")


def test_availability_is_checked_without_importing_a_backend() -> None:
    script = """if True:
        import sys
        from modules.loaders.availability import unavailable
        from modules.loaders.registry import LOADERS
        for loader in LOADERS.values():
            unavailable(loader)
        loaded = {package for loader in LOADERS.values() for package in loader.packages} & set(sys.modules)
        assert not loaded, loaded
    """
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)


# -- a program in place of the packages --------------------------------------------------------------------------------


def test_a_program_that_is_named_or_in_path_does_without_the_packages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overlay = Overlay("none", megabytes=1, root=tmp_path)
    (tmp_path / "requirements-none.txt").touch()
    row = dataclasses.replace(LOADERS["vLLM"], overlay=overlay, packages=("no_such_package",))
    program = tmp_path / "bin" / "vllm"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    assert unavailable(row) is not None and overlay_of(row) == overlay
    assert unavailable(row, options={"vllm_program": str(program)}) is None
    assert overlay_of(row, options={"vllm_program": str(program)}) is None
    refused = unavailable(row, options={"vllm_program": "/no/such/vllm"})
    assert refused is not None and "/no/such/vllm" in refused.say("en")
    monkeypatch.setenv("PATH", str(program.parent))
    assert unavailable(row) is None and overlay_of(row) is None


def test_on_a_machine_with_a_gpu_vllm_needs_an_environment_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "requirements-none.txt").touch()
    row = dataclasses.replace(LOADERS["vLLM"], overlay=Overlay("none", megabytes=1, root=tmp_path))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(availability, "has_nvidia_gpu", lambda: True)
    refused = unavailable(row)
    assert refused is not None and "--vllm-program ~/vllm/bin/vllm" in refused.say("en") and not refused.install
