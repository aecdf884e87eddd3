"""The fences of the house: who may import whom, what stays out of the main process, and how long things may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.process import ROOT

# Each module's floor; imports go downward only. A package stands for all that is in it.
LAYERS = {
    "words": {"errors", "download_errors", "install_errors", "lora_errors", "options", "events", "remote"},
    "facts": {
        *("loaders", "sampling", "gguf", "catalog", "settings", "templates", "characters", "hub"),
        *("load_options", "load_options_gpu", "sampling_options", "checkpoint", "rawfile", "flags", "gone_flags"),
        *("sampling_options_more", "sampling_options_hf", "presets"),
        *("yaml_file", "model_settings", "choice", "fit", "estimate", "estimate_hf", "estimate_quantised", "shape"),
        *("addresses", "selection", "mirrors", "download_flags", "safe_paths", "remote_header", "pickle_scan"),
        *("walk", "weight_files", "gguf_types", "gguf_tensors", "read_cache", "twins", "unsupported", "quantised"),
        *("trusted_code", "overlay"),
        *("connections", "hub_http", "hub_files"),
        *("loras", "lora_adapter", "lora_fit", "lora_names", "lora_gguf", "gguf_writer"),
    },
    "actors": {
        *("models", "downloads", "process", "transfer", "verify", "staging", "job_record"),
        *("retry", "carrier", "publish", "job", "job_view", "overlays"),
        *("pip_run", "llama_build", "demo_model"),
    },
    "deeds": {
        *("chat", "training", "evaluation", "app", "menu", "hubs", "creator", "lora_control"),
        *("download_choice", "remote_fit", "install"),
        *("environment", "preparation", "first_load"),
    },
    "faces": {"ui", "api", "download_cli"},
    "child": {"worker", "engines"},
}
ORDER = ("words", "facts", "actors", "deeds", "faces")
SHARED = {
    "machine",
    "gpus",
    "heap",
    "own_code",
    "file_lock",
    "tokenizer_files",
    "terminal",
    "build_steps",
}  # of the words' kind: standard library only, and of use to every layer, the child included

PAGE = {"gradio", "gradio_client"}
SERVER = {"fastapi", "starlette", "pydantic", "uvicorn"}
FACTS = {"yaml", "ruamel", "jinja2", "requests", "urllib3", "huggingface_hub"}
BACKENDS = {
    *("torch", "transformers", "llama_cpp", "numpy", "accelerate", "peft", "safetensors", "bitsandbytes"),
    *("auto_gptq", "awq", "exllamav2", "gptqmodel", "datasets", "tokenizers", "sentencepiece", "llguidance"),
}
MAY_USE = {
    "words": set(),
    "facts": FACTS,
    "actors": FACTS,
    "deeds": FACTS,
    "child": BACKENDS,
}

LONGEST_FILE, LONGEST_FUNCTION = 400, 60

MODULES = sorted(set((ROOT / "modules").rglob("*.py")) - {ROOT / "modules" / "__init__.py"})
PROGRAMS = [ROOT / "server.py", ROOT / "download-model.py"]
PARSED = {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in [*MODULES, *PROGRAMS]}


def short(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def head(path: Path) -> str:
    """The module or package below modules/ that `path` belongs to."""
    return path.relative_to(ROOT / "modules").parts[0].removesuffix(".py")


def floor(name: str) -> str:
    if name in SHARED:
        return "words"
    return next((layer for layer, members in LAYERS.items() if name in members), "")


def imports(path: Path) -> Iterator[str]:
    """The full names of what `path` imports, wherever in it: "modules.errors", "llama_cpp.llama_cpp"."""
    for node in ast.walk(PARSED[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{short(path)}:{node.lineno}: names are written in full here"
            module = node.module or ""
            yield from (f"modules.{alias.name}" for alias in node.names) if module == "modules" else (module,)


def ours(path: Path) -> set[str]:
    """The modules and packages of ours that `path` imports, by their name below modules/."""
    return {name.split(".")[1] for name in imports(path) if name.startswith("modules.")}


def foreign(path: Path) -> set[str]:
    """The packages of others that `path` imports."""
    tops = {name.partition(".")[0] for name in imports(path)}
    return tops - set(sys.stdlib_module_names) - {"modules", "server"}


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_every_module_has_a_floor(path: Path) -> None:
    assert floor(head(path)), f"{short(path)} is not in the table of layers"


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_imports_go_downward_only(path: Path) -> None:
    here = floor(head(path))
    if here == "child":
        allowed = LAYERS["words"] | SHARED | {"engines"}
    else:
        allowed = SHARED.union(*(LAYERS[layer] for layer in ORDER[: ORDER.index(here) + 1]))
    assert ours(path) - allowed - {head(path)} == set()


@pytest.mark.parametrize("path", MODULES, ids=short)
def test_the_faces_do_not_know_each_other(path: Path) -> None:
    if floor(head(path)) == "faces":
        assert ours(path) & LAYERS["faces"] <= {head(path)}


@pytest.mark.parametrize("path", [*MODULES, *PROGRAMS], ids=short)
def test_the_packages_of_others_stay_where_they_belong(path: Path) -> None:
    name = path.stem if path.parent == ROOT else head(path)
    allowed = {
        "ui": PAGE | SERVER,
        "api": SERVER,
        "server": SERVER,
        "worker": set(),
        "download_cli": set(),
        "download-model": set(),
    }
    may_use = allowed[name] if name in allowed else MAY_USE[floor(name)]
    assert foreign(path) - may_use == set()


def test_only_one_place_writes_yaml_with_its_comments() -> None:
    assert [head(path) for path in MODULES if "ruamel" in foreign(path)] == ["model_settings", "yaml_file"]


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(PARSED[path]):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


@pytest.mark.parametrize("path", PARSED, ids=short)
def test_nothing_is_global(path: Path) -> None:
    assert [node.lineno for node in ast.walk(PARSED[path]) if isinstance(node, ast.Global)] == []


@pytest.mark.parametrize("path", PARSED, ids=short)
def test_only_the_edges_catch_everything(path: Path) -> None:
    if path.parent != ROOT and (head(path) in ("ui", "api") or path.name == "worker.py"):
        return
    caught = [node for node in ast.walk(PARSED[path]) if isinstance(node, ast.ExceptHandler) and catches_all(node)]
    assert [node.lineno for node in caught] == []


def catches_all(handler: ast.ExceptHandler) -> bool:
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any(kind is None or getattr(kind, "id", "") in ("Exception", "BaseException") for kind in kinds)


@pytest.mark.parametrize("path", PARSED, ids=short)
def test_no_function_is_longer_than_a_screen(path: Path) -> None:
    long = {each.name: (each.end_lineno or 0) - each.lineno + 1 for each in functions(path)}
    assert {name: lines for name, lines in long.items() if lines > LONGEST_FUNCTION} == {}


@pytest.mark.parametrize("path", PARSED, ids=short)
def test_no_file_is_longer_than_a_few_pages(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE


@pytest.mark.parametrize("path", PARSED, ids=short)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(PARSED[path])


@pytest.mark.parametrize("path", PARSED, ids=short)
def test_every_function_has_a_typed_signature(path: Path) -> None:
    for each in functions(path):
        untyped = [arg.arg for arg in [*each.args.args, *each.args.kwonlyargs] if arg.annotation is None]
        assert set(untyped) <= {"self", "cls"}, each.name
        assert each.returns is not None or each.name == "__init__", each.name


_HEAVY = ("torch", "transformers", "llama_cpp", "numpy", "gradio", "fastapi")


@pytest.mark.parametrize("module", ["server", "modules.app", "modules.chat", "modules.worker"])
def test_nothing_heavy_is_imported_before_it_is_needed(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {_HEAVY} if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert told.stdout == "[]\n", told.stderr


def test_what_both_processes_import_needs_nothing_but_python() -> None:
    """So that a worker with an overlay of other versions still runs it."""
    program = (
        "import sys; sys.path = [each for each in sys.path if 'site-packages' not in each];"
        "import modules.worker, modules.errors, modules.options, modules.events, modules.machine; print('fine')"
    )
    told = subprocess.run([sys.executable, "-S", "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert told.stdout == "fine\n", told.stderr
