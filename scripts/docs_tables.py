"""Generate the tables of the documentation from those of the program: `python scripts/docs_tables.py`.

A table is delimited by `<!-- table: NAME -->` and `<!-- end -->`. tests/test_docs.py fails if one is out of date.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from modules.cli.download_flags import FLAGS  # noqa: E402
from modules.config.flags import SERVER  # noqa: E402
from modules.core.errors import LANGUAGES, WebUIError, Words  # noqa: E402
from modules.core.quotes import in_quotes  # noqa: E402
from modules.engines import failure_causes  # noqa: E402
from modules.hub.errors import DownloadError  # noqa: E402
from modules.loaders.registry import LOADERS  # noqa: E402
from modules.options.generation import PARAMETERS, SUPPORTED_BY_ALL  # noqa: E402
from modules.options.load import OPTIONS  # noqa: E402
from modules.options.option import Option  # noqa: E402
from modules.setup import install_errors  # noqa: E402
from modules.training.parameters import PARAMETERS as TRAINING_PARAMETERS  # noqa: E402

DOCUMENTS = (ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md")))
SHORT = {
    "Transformers": "TF",
    "ExLlamav2_HF": "exl2_HF",
    "ExLlamav2": "exl2",
    "AutoGPTQ": "GPTQ",
    "llama.cpp": "lcpp",
    "llamacpp_HF": "lcpp_HF",
    "AutoAWQ": "AWQ",
}


def rows(header: Iterable[str], body: Iterable[Iterable[str]]) -> str:
    titles = list(header)
    lines = [titles, ["---"] * len(titles), *body]
    return "\n".join(
        "| " + " | ".join(cell.replace("|", "\\|").replace("\n", "<br>") for cell in line) + " |" for line in lines
    )


def default_text(option: Option) -> str:
    if isinstance(option.default, bool):
        return "on" if option.default else "off"
    return ", ".join(str(option.default).split("\n")) or "—"


def load_options() -> str:
    header = ["flag", "默认 default", "说明", "what it does", *(SHORT.get(name, name) for name in LOADERS)]
    return rows(
        header,
        (
            [f"`--{option.flag}`", default_text(option), option.help["zh"], option.help["en"]]
            + ["●" if option.key in loader.options else "" for loader in LOADERS.values()]
            for option in OPTIONS.values()
        ),
    )


def generation() -> str:
    return rows(
        ["name", "默认 default", "说明", "what it does", *(SHORT.get(name, name) for name in LOADERS)],
        (
            [f"`{option.flag}`", default_text(option), option.help["zh"], option.help["en"]]
            + ["●" if option.key in loader.samplers | SUPPORTED_BY_ALL else "" for loader in LOADERS.values()]
            for option in PARAMETERS.values()
        ),
    )


def simple(options: Iterable[Option], dashes: str) -> str:
    return rows(
        ["name", "默认 default", "说明", "what it does"],
        (
            [f"`{dashes}{option.flag}`", default_text(option), option.help["zh"], option.help["en"]]
            for option in options
        ),
    )


def causes(table: Iterable[Words]) -> str:
    return rows(["原因与解决办法", "cause and remedy"], ([words["zh"], words["en"]] for words in table))


def import_errors() -> None:
    """Import all modules that define errors, whatever has been imported before."""
    for path in sorted((ROOT / "modules").rglob("*.py")):
        if path.name.endswith("errors.py"):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))


def errors(base: type[WebUIError], exclude: tuple[type[WebUIError], ...] = ()) -> str:
    """Return a table of the messages of all errors with fixed text; `{…}` stands for a variable part."""
    kinds = [kind for kind in error_classes(base) if not issubclass(kind, exclude)]
    templates = [words for kind in kinds for words in (kind.template, vars(kind).get("template_elsewhere")) if words]
    sentences = [template for template in templates if re.sub(r"\{\w+\}|\W", "", template["en"])]
    shown = [[_with_quotes(sentence[language], language) for language in LANGUAGES] for sentence in sentences]
    return rows(["提示", "message"], shown)


def _with_quotes(template: str, language: str) -> str:
    return re.sub(r"\{(\w+)!r\}", lambda name: in_quotes(f"{{{name[1]}}}", language), template)


def error_classes(base: type[WebUIError]) -> Iterator[type[WebUIError]]:
    """Yield `base` and its subclasses that define a template, in the order of definition: first those of core."""
    if "template" in vars(base):
        yield base
    for kind in sorted(base.__subclasses__(), key=lambda kind: ("core" not in kind.__module__, kind.__module__)):
        if kind.__module__.startswith("modules."):
            yield from error_classes(kind)


def tables() -> dict[str, str]:
    import_errors()
    return {
        "flags": simple(SERVER.values(), "--"),
        "download flags": simple(FLAGS.values(), "--"),
        "load options": load_options(),
        "generation": generation(),
        "training parameters": simple(TRAINING_PARAMETERS.values(), ""),
        "causes of failed loads": causes(words for _, words in failure_causes.CAUSES),
        "causes of failed installations": causes(words for _, words in install_errors.CAUSES),
        "download errors": errors(DownloadError),
        "errors": errors(WebUIError, exclude=(DownloadError,)),
    }


def fill(text: str) -> str:
    """Return the document `text` with updated tables."""
    for name, table in tables().items():
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        text = re.sub(pattern, lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text, flags=re.S)
    return text


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(fill(document.read_text(encoding="utf-8")), encoding="utf-8")
