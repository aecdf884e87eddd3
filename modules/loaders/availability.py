"""Tell whether a loader can run on this machine and, if not, what is missing. No backend is imported to find out."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.machinery import PathFinder

from modules.core.errors import LoaderUnavailable, Words
from modules.loaders.overlay import Overlay
from modules.loaders.registry import LOADERS, RPC, Loader, candidates
from modules.system import gpus

NO_OPTIONS: Mapping[str, object] = {}


def overlay_of(loader: Loader, model_format: str = "", options: Mapping[str, object] = NO_OPTIONS) -> Overlay | None:
    """Return the overlay that the loader's worker uses for models of a format; None for the main environment.

    A worker whose `options` name a program, or that finds one in PATH instead of the overlay, needs none.
    """
    if _named_program(loader, options) or _program_in_path(loader):
        return None
    own = None if loader.overlay is None or loader.overlay.in_environment else loader.overlay
    for extra in loader.extras:
        if model_format in extra.formats and not all(map(importlib.util.find_spec, extra.packages)):
            return extra.overlay or own
    return own


def llamacpp_gpus(present: gpus.GpuMonitor) -> Sequence[gpus.Gpu]:
    """Return the GPUs that the installed build of llama.cpp can use. It may be installed at any time."""
    overlay = overlay_of(next(loader for loader in LOADERS.values() if loader.gpus == "llama.cpp"))
    return present.current() if gpus.llamacpp_has_gpu_backend(overlay.folder if overlay is not None else None) else ()


def unavailable(
    loader: Loader, model_format: str = "", options: Mapping[str, object] = NO_OPTIONS
) -> LoaderUnavailable | None:
    """Return why a loader cannot run on this machine, or cannot load models of a format; None if it can.

    `options` are those of the load, as far as they are known: they may name a program that does without the packages.
    """
    if program := _named_program(loader, options):
        return None if shutil.which(program) else LoaderUnavailable(loader.name, _no_program(loader, program))
    if _program_in_path(loader):
        return None
    if _lacks_gpu(loader):
        return LoaderUnavailable(loader.name, _no_cuda(model_format))
    if loader.program and has_nvidia_gpu() and loader.overlay is not None and not loader.overlay.is_installed:
        return LoaderUnavailable(loader.name, _own_environment(loader))
    overlay = overlay_of(loader, model_format)
    extras = [extra for extra in loader.extras if model_format in extra.formats]
    if overlay is not None and not overlay.is_installed:
        install = next((extra.install for extra in extras if extra.overlay == overlay), loader.install)
        return LoaderUnavailable(loader.name, _absent(overlay, install), install)
    for packages, install in [
        (loader.packages, loader.install),
        *((extra.packages, extra.install) for extra in extras),
    ]:
        if missing := [package for package in packages if not _installed(package, overlay)]:
            return LoaderUnavailable(loader.name, _missing(missing, install), install)
    return None


def rpc_unavailable(loader: Loader) -> LoaderUnavailable | None:
    """Return why the loader cannot use other machines; None if it can."""
    return None if RPC.is_installed else LoaderUnavailable(loader.name, _NO_RPC)


def damaged(loader: Loader, model_format: str = "") -> LoaderUnavailable | None:
    """Return an error if files of the loader's overlay are missing or have changed; None otherwise.

    Called after a failed load. A damaged overlay is marked as not installed, so that it can be installed again.
    """
    overlay = overlay_of(loader, model_format)
    if overlay is None or not (file := overlay.find_damage()):
        return None
    overlay.invalidate()
    absent = unavailable(loader, model_format)
    return LoaderUnavailable(loader.name, _damaged(overlay, file), absent.install if absent else "")


_NO_RPC: Words = {
    "en": "llama.cpp's RPC backend, which option rpc needs, is not compiled yet. Press Load, which does it in half a "
    "minute, or run: python server.py --install rpc",
    "zh": "选项 rpc 所需的 llama.cpp RPC 后端尚未编译。点击“加载”即会编译（约半分钟），"
    "或运行：python server.py --install rpc",
}


def _named_program(loader: Loader, options: Mapping[str, object]) -> str:
    return str(options.get(loader.program_option) or "") if loader.program_option else ""


def _program_in_path(loader: Loader) -> bool:
    """Whether there is a command that replaces the overlay. An overlay that is installed is preferred."""
    if not loader.program or (loader.overlay is not None and loader.overlay.is_installed):
        return False
    return shutil.which(loader.program) is not None


def _no_program(loader: Loader, program: str) -> Words:
    return {
        "en": f"{loader.program_option} names no program that can be run: {program}",
        "zh": f"{loader.program_option} 指定的程序不存在或无法执行：{program}",
    }


def _own_environment(loader: Loader) -> Words:
    """Say how to install a loader on a machine with a GPU: its packages in the overlay compute on CPUs."""
    name, flag = loader.program, loader.program_option.replace("_", "-")
    commands = f"python -m venv ~/{name} && ~/{name}/bin/pip install {name}"
    return {
        "en": f"for GPUs it needs an environment of its own. Run: {commands} "
        f"and start this program with --{flag} ~/{name}/bin/{name}",
        "zh": f"使用 GPU 需要单独的环境。请运行：{commands}，然后以参数 --{flag} ~/{name}/bin/{name} 启动本程序",
    }


def _lacks_gpu(loader: Loader) -> bool:
    return bool(loader.kernels) and not _installed(loader.kernels, loader.overlay) and not has_nvidia_gpu()


@cache
def has_nvidia_gpu() -> bool:
    """Whether there is an NVIDIA GPU in this machine. It is looked for once."""
    return bool(gpus.nvidia_gpus())


def is_installed(package: str) -> bool:
    """Whether the main environment has the package, or the module of a package, of that import name."""
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False


def _no_cuda(model_format: str) -> Words:
    others = [row.name for row in candidates(model_format) if not _lacks_gpu(row) and not row.by_request]
    advice: Words = {"en": ".", "zh": "。"}
    if others:
        advice = {
            "en": f". Load this model with {' or '.join(others)} instead.",
            "zh": f"。此模型可改用 {' 或 '.join(others)} 加载。",
        }
    elif model_format:
        name = model_format.upper()
        advice = {"en": f". No other loader supports {name} models.", "zh": f"。没有其他加载器支持 {name} 模型。"}
    return {
        "en": f"it needs an NVIDIA GPU with CUDA, and none was found{advice['en']}",
        "zh": f"需要支持 CUDA 的 NVIDIA 显卡，但未检测到{advice['zh']}",
    }


def _missing(packages: list[str], install: str) -> Words:
    names = ", ".join(packages)
    return {
        "en": f"not installed: {names}. To install: {install}",
        "zh": f"未安装 {names}。安装命令：{install}",
    }


def _absent(overlay: Overlay, install: str) -> Words:
    if overlay.compiled:
        return {
            "en": f"it is not compiled yet. Click Install on the Model page, or run: {install}",
            "zh": f"尚未编译。请点击“模型”页的“安装”，或运行：{install}",
        }
    return {
        "en": f"its packages ({overlay.megabytes} MB) are not installed. They go into overlays/{overlay.name}. "
        f"Click Install on the Model page, or run: {install}",
        "zh": f"需要专用的软件包（{overlay.megabytes} MB），单独安装在 overlays/{overlay.name}。"
        f"请点击“模型”页的“安装”，或运行：{install}",
    }


def _damaged(overlay: Overlay, file: str) -> Words:
    return {
        "en": f"its packages in overlays/{overlay.name} are damaged ({file}). Install them again.",
        "zh": f"overlays/{overlay.name} 中的软件包已损坏（{file}），请重新安装。",
    }


def _installed(package: str, overlay: Overlay | None) -> bool:
    # The overlay is on the worker's path, not on this process's. A missing folder is not searched, because Python
    # would cache that it is missing.
    if overlay is not None and overlay.folder.is_dir() and PathFinder.find_spec(package, [str(overlay.folder)]):
        return True
    return is_installed(package)
