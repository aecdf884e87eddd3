"""Keep the addresses of other machines out of errors, in programs that serve more people than their owner."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Mapping
from typing import TypeVar
from urllib.parse import urlsplit

from modules.core.errors import WebUIError
from modules.core.events import Json
from modules.formats.server_file import SUFFIX, origin
from modules.runtime.load_plan import LoadPlan

HIDDEN = "…"
_URL = r"\b[a-z]{2,10}://[^\s\"'<>`，。；（）]+"
_IPV4 = r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?(?![\d.])"
_IPV6 = re.compile(r"(?<![\w:.])[0-9a-f]*:[0-9a-f:.]*[0-9a-f](?:%\w+)?(?!\w)", re.IGNORECASE)
"""What may be an address, or a time of day."""

E = TypeVar("E", bound=WebUIError)


class AddressConcealer:
    """Replaces the addresses with which a model works in the errors about it: its server is called by its name.

    Errors may quote what a server says; any address in that is left out as well.
    """

    def __init__(self, plan: LoadPlan) -> None:
        server = plan.record.server
        self._name = plan.record.name.removesuffix(SUFFIX)
        self._origins = _spellings(server.url) if server else frozenset()
        names = {urlsplit(server.url).hostname or ""} if server else set()
        names |= {node.rpartition(":")[0].strip("[]") for node in plan.nodes}
        hosts = [rf"(?<![\w.-]){re.escape(name)}(?::\d+)?(?![\w-])" for name in sorted(names, key=len) if name]
        self._address = re.compile("|".join((_URL, *hosts, _IPV4)), re.IGNORECASE)

    def __call__(self, error: E) -> E:
        """Return the same error without addresses."""
        facts = {one.name: self._concealed(getattr(error, one.name)) for one in dataclasses.fields(error)}
        return type(error)(**facts)

    def _concealed(self, fact: Json) -> Json:
        if isinstance(fact, str):
            if fact in self._origins:
                return {"en": f"{self._name}'s server", "zh": f"{self._name} 的服务器"}
            return self._address.sub(HIDDEN, _IPV6.sub(_without_ipv6, fact))
        if isinstance(fact, Mapping):
            return {key: self._concealed(value) for key, value in fact.items()}
        return fact


def _without_ipv6(match: re.Match[str]) -> str:
    try:
        ipaddress.IPv6Address(match[0])
    except ValueError:
        return match[0]
    return HIDDEN


def _spellings(url: str) -> frozenset[str]:
    """Return the origin of an address as errors name it, with and without the usual port."""
    parts = urlsplit(url)
    return frozenset({f"{parts.scheme}://{parts.netloc}", origin(url), url})


def concealer_of(plan: LoadPlan) -> AddressConcealer | None:
    """Return what keeps addresses out of the errors about a model; None if it works with no other machine."""
    return AddressConcealer(plan) if plan.record.server is not None or plan.nodes else None
