"""Lorebooks: texts that are added to the prompt when one of their keys is mentioned in the conversation.

The format is `character_book` of character cards V2, and `lorebook` of V3. Regular expressions as keys are kept, but
not run: those of strangers could take any amount of time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from modules.characters.errors import CardProblem
from modules.conversations.importers.values import as_line, as_list, as_mapping, as_text
from modules.core.events import Json

DEFAULT_SCAN_DEPTH = 4
"""Messages that are searched for keys where the lorebook does not say."""
DEFAULT_TOKEN_BUDGET = 1024
MAX_ENTRIES = 10_000
MAX_ORDER = 1_000_000_000
BEFORE, AFTER = "before_char", "after_char"


@dataclass(frozen=True)
class LoreEntry:
    """One text with its keys. `order`: lower ones come first. `priority`: lower ones are dropped first.

    A `selective` entry needs one of `keys` and one of `secondary_keys`. A `constant` entry needs none. `raw` is the
    entry as the file has it, whose other keys are written back.
    """

    keys: tuple[str, ...] = ()
    content: str = ""
    enabled: bool = True
    constant: bool = False
    selective: bool = False
    secondary_keys: tuple[str, ...] = ()
    case_sensitive: bool = False
    use_regex: bool = False
    order: float = 0
    priority: float = 0
    position: str = BEFORE
    name: str = ""
    raw: Mapping[str, Json] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The content for the prompt, without the decorators (lines that begin with @@) before it."""
        lines = self.content.lstrip().split("\n")
        while lines and lines[0].startswith("@@"):
            del lines[0]
        return "\n".join(lines).strip()

    def is_mentioned(self, text: str, lowered: str) -> bool:
        """Whether the keys occur in `text`, which is `lowered` in lower case."""
        if self.use_regex:
            return False
        searched = text if self.case_sensitive else lowered

        def found(keys: Sequence[str]) -> bool:
            return any((key if self.case_sensitive else key.lower()) in searched for key in keys)

        return found(self.keys) and (not self.selective or not self.secondary_keys or found(self.secondary_keys))

    def to_json(self) -> dict[str, Json]:
        """Return the entry for a card: `raw`, with what differs from it."""
        if not self.raw:
            return {**self._edited(), "name": self.name, "use_regex": False, "extensions": {}}
        before = read_entry(self.raw)._edited()
        return {**self.raw, **{key: value for key, value in self._edited().items() if value != before[key]}}

    def _edited(self) -> dict[str, Json]:
        """Return the fields that can be edited, by their key in a card."""
        return {
            "keys": list(self.keys),
            "content": self.content,
            "enabled": self.enabled,
            "constant": self.constant,
            "insertion_order": self.order,
        }


@dataclass(frozen=True)
class Lorebook:
    """Entries with common settings. `raw` is the lorebook as the file has it, without its entries."""

    entries: tuple[LoreEntry, ...] = ()
    scan_depth: int = DEFAULT_SCAN_DEPTH
    token_budget: int = DEFAULT_TOKEN_BUDGET
    recursive: bool = False
    raw: Mapping[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return the lorebook for a card."""
        start = dict(self.raw) if self.raw else {"extensions": {}}
        return {**start, "entries": [entry.to_json() for entry in self.entries]}


def read_lorebook(value: Json) -> Lorebook:
    """Return the lorebook of a card. Raises CardProblem if it is not one."""
    if not isinstance(value, dict) or not isinstance(value.get("entries", []), list):
        raise CardProblem("its lorebook is not a list of entries", "其世界书不是条目列表")
    entries = as_list(value.get("entries"))
    if len(entries) > MAX_ENTRIES:
        raise CardProblem(f"its lorebook has more than {MAX_ENTRIES:,} entries", f"其世界书超过 {MAX_ENTRIES:,} 条")
    if not all(isinstance(entry, dict) for entry in entries):
        raise CardProblem("an entry of its lorebook is not an object", "其世界书中有的条目不是对象")
    return Lorebook(
        tuple(read_entry(entry) for entry in entries),
        scan_depth=_count(value.get("scan_depth"), DEFAULT_SCAN_DEPTH),
        token_budget=_count(value.get("token_budget"), DEFAULT_TOKEN_BUDGET),
        recursive=value.get("recursive_scanning") is True,
        raw={key: item for key, item in value.items() if key != "entries"},
    )


def read_entry(raw: Mapping[str, Json]) -> LoreEntry:
    """Return an entry of a card. Values of the wrong type count as missing."""
    entry = as_mapping(raw)
    return LoreEntry(
        keys=_keys(entry.get("keys")),
        content=as_lines(entry.get("content")),
        enabled=entry.get("enabled") is not False,
        constant=entry.get("constant") is True,
        selective=entry.get("selective") is True,
        secondary_keys=_keys(entry.get("secondary_keys")),
        case_sensitive=entry.get("case_sensitive") is True,
        use_regex=entry.get("use_regex") is True,
        order=_number(entry.get("insertion_order")),
        priority=_number(entry.get("priority")),
        position=AFTER if entry.get("position") == AFTER else BEFORE,
        name=as_line(entry.get("name")) or as_line(entry.get("comment")),
        raw=entry,
    )


def as_lines(value: Json) -> str:
    """Return a text with the line breaks that a field of a page gives it; "" for other types."""
    return as_text(value).replace("\r\n", "\n").replace("\r", "\n")


def select(
    lorebook: Lorebook, recent_texts: Sequence[str], count: Callable[[str], int]
) -> tuple[list[LoreEntry], list[LoreEntry]]:
    """Return the entries that belong before and after the character's description, in their order.

    `recent_texts` are the texts of the conversation, the latest one last. `count` returns the tokens of a text: if all
    that are mentioned exceed the token budget, those of the lowest priority are left out, of equal ones those that come
    last.
    """
    mentioned = _mentioned(lorebook, "\n".join(recent_texts[-lorebook.scan_depth :] if lorebook.scan_depth else ()))
    ordered = sorted(mentioned, key=lambda entry: entry.order)
    kept: set[int] = set()
    left = lorebook.token_budget
    for entry in sorted(ordered, key=lambda entry: -entry.priority):
        tokens = count(entry.text)
        if tokens > left:
            break
        left -= tokens
        kept.add(id(entry))
    chosen = [entry for entry in ordered if id(entry) in kept]
    return [entry for entry in chosen if entry.position == BEFORE], [one for one in chosen if one.position == AFTER]


def _mentioned(lorebook: Lorebook, text: str) -> list[LoreEntry]:
    """Return the entries to add; with `recursive`, also those that are mentioned in entries found before."""
    waiting = [entry for entry in lorebook.entries if entry.enabled and entry.text]
    found: list[LoreEntry] = []
    lowered = text.lower()
    while new := [entry for entry in waiting if entry.constant or entry.is_mentioned(text, lowered)]:
        found += new
        if not lorebook.recursive:
            break
        added = set(map(id, new))
        waiting = [entry for entry in waiting if id(entry) not in added]
        text = "\n".join(entry.text for entry in new)
        lowered = text.lower()
    return found


def with_entries(lorebook: Lorebook | None, entries: Sequence[LoreEntry]) -> Lorebook | None:
    """Return the lorebook with other entries; None if there was none and there are no entries."""
    if lorebook is None:
        return Lorebook(tuple(entries)) if entries else None
    return dataclasses.replace(lorebook, entries=tuple(entries))


def _keys(value: Json) -> tuple[str, ...]:
    return tuple(key for key in map(as_text, as_list(value)) if key.strip())


def _number(value: Json) -> float:
    return value if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_ORDER else 0


def _count(value: Json, default: int) -> int:
    return value if type(value) is int and 0 <= value < 1_000_000 else default
