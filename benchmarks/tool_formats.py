"""Say which format of calls is found in published chat templates, and whether a conversation with tools is kept whole.

    .venv/bin/python benchmarks/tool_formats.py FOLDER

FOLDER has chat templates as *.jinja, such as models/templates of a clone of llama.cpp. Each renders a conversation with
two calls at once and their results; what is written for calls is read again by the parser of that format.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from figures import table
from program import ROOT

sys.path.insert(0, str(ROOT))
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.chat.tools.use import ToolUse
from modules.core.errors import WebUIError
from modules.core.reasoning import KNOWN_MARKERS, ReasoningParser
from tests.support.tool_replies import SPECIAL_TOKENS, TOOLS

ADAPTATIONS = ("calls_as_text", "short_ids", "named_ids", "no_text", "thought_or_text")
CALLS = (("get_weather", {"city": "City", "days": 3}), ("now", {}))
RESULTS = ("resultone", "resulttwo")


def conversation() -> list[dict[str, object]]:
    calls = [
        {"type": "function", "id": f"call_{index:024}", "function": {"name": name, "arguments": json.dumps(arguments)}}
        for index, (name, arguments) in enumerate(CALLS)
    ]
    results = [
        {"role": "tool", "content": text, "tool_call_id": f"call_{index:024}"} for index, text in enumerate(RESULTS)
    ]
    return [
        {"role": "user", "content": "Question"},
        {"role": "assistant", "content": "", "tool_calls": calls},
        *results,
    ]


def row(templates: ChatTemplates, template: ModelTemplate) -> tuple[str, ...]:
    """Return what is found of one template, and what becomes of a conversation and of a reply."""
    try:
        use = ToolUse.of(templates, template, TOOLS)
        prompt = templates.render(template, use.messages(conversation()), template_kwargs=use.template_kwargs)
    except WebUIError as error:
        return (template.model, "", "", "", str(error)[-60:])
    kind = type(use.calls).__name__.removesuffix("Calls") if use.support.calls else "generic"
    lost = [word for word in ("City", *RESULTS, *(tool.name for tool in TOOLS)) if word not in prompt]
    adapted = ["described by us"] * (not use.described)
    adapted += ["results as text"] * (not use.support.results)
    adapted += ["one call a message"] * (not use.calls.frame.parallel)
    adapted += [name.replace("_", " ") for name in ADAPTATIONS if getattr(use.support, name)]
    parser = use.parser(ReasoningParser(KNOWN_MARKERS))
    reply = use.calls.text([(name, json.dumps(arguments)) for name, arguments in CALLS])
    pieces = [*parser.feed(reply), *parser.end()]
    read = [name for piece, name in pieces if piece == "call"] == [name for name, _ in CALLS] and not parser.faults
    return (template.model, kind, ", ".join(adapted), ", ".join(lost) or "nothing", "yes" if read else "NO")


def main(folder: Path) -> None:
    sources = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}
    if not sources:
        sys.exit(f"{folder} has no *.jinja")
    templates = ChatTemplates()
    rows = [row(templates, ModelTemplate(name, text, {}, SPECIAL_TOKENS)) for name, text in sources.items()]
    table(("template", "calls", "adapted", "lost of a conversation", "read again"), rows)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
