"""Writes README's tables from those of the program: `python scripts/readme_tables.py`. A test tells if it is due."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from modules.cli.download_flags import FLAGS  # noqa: E402
from modules.config.flags import SERVER  # noqa: E402
from modules.loaders.registry import LOADERS  # noqa: E402
from modules.options.generation import PARAMETERS, SUPPORTED_BY_ALL  # noqa: E402
from modules.options.load import OPTIONS  # noqa: E402
from modules.options.option import Option  # noqa: E402

README = ROOT / "README.md"
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
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def shown(option: Option) -> str:
    if isinstance(option.default, bool):
        return "on" if option.default else "off"
    return ", ".join(str(option.default).split("\n")) or "—"


def load_options() -> str:
    header = ["flag", "默认 default", "说明", "what it does", *(SHORT[name] for name in LOADERS)]
    return rows(
        header,
        (
            [f"`--{option.flag}`", shown(option), option.help["zh"], option.help["en"]]
            + ["●" if option.key in loader.options else "" for loader in LOADERS.values()]
            for option in OPTIONS.values()
        ),
    )


def generation() -> str:
    return rows(
        ["name", "默认 default", "说明", "what it does", *(SHORT[name] for name in LOADERS)],
        (
            [f"`{each.flag}`", shown(each), each.help["zh"], each.help["en"]]
            + ["●" if each.key in loader.samplers | SUPPORTED_BY_ALL else "" for loader in LOADERS.values()]
            for each in PARAMETERS.values()
        ),
    )


def simple(options: Iterable[Option], dashes: str) -> str:
    return rows(
        ["name", "默认 default", "说明", "what it does"],
        ([f"`{dashes}{each.flag}`", shown(each), each.help["zh"], each.help["en"]] for each in options),
    )


def tables() -> dict[str, str]:
    return {
        "flags": simple(SERVER.values(), "--"),
        "download flags": simple(FLAGS.values(), "--"),
        "load options": load_options(),
        "generation": generation(),
    }


def filled(readme: str) -> str:
    """`readme` with each `<!-- table: NAME -->` … `<!-- end -->` filled anew."""
    for name, table in tables().items():
        pattern = rf"(<!-- table: {name} -->\n).*?(<!-- end -->)"
        readme, found = re.subn(pattern, lambda part, table=table: f"{part[1]}{table}\n{part[2]}", readme, flags=re.S)
        assert found == 1, f"README has no place for the table {name!r}"
    return readme


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
