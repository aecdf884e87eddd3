"""Slow down whoever guesses a password or a key."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from modules.core.errors import Words
from modules.system.terminal import terminal_language

FREE_MISSES = 10
MAX_DELAY_SECONDS = 300.0
FORGET_SECONDS = 3600.0
MAX_ADDRESSES = 10_000

log = logging.getLogger(__name__)

_WARNING: Words = {
    "en": "Someone at {address} is guessing a password or an API key; further attempts are delayed.",
    "zh": "{address} 正在猜测密码或 API 密钥，后续尝试将被延迟。",
}


@dataclass
class _Guesser:
    misses: int = 0
    missed_at: float = 0.0


class GuessLimiter:
    """Counts wrong secrets by the address that sends them. Used by the thread of the web server only.

    After ten misses an address must wait 1 s before the next attempt, then 2, 4, 8 … s. Attempts meanwhile are refused
    unseen: a right one as well, or a wrong one would still tell something. A right secret in time clears the count, and
    so does an hour without a miss.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._guessers: OrderedDict[str, _Guesser] = OrderedDict()  # the one that missed last comes last

    def delay(self, address: str) -> float:
        """Return for how many seconds no secret of this address is looked at; 0 if it may try."""
        guesser = self._guessers.get(network(address))
        if guesser is None or guesser.misses < FREE_MISSES:
            return 0.0
        wait = min(2.0 ** min(guesser.misses - FREE_MISSES, 30), MAX_DELAY_SECONDS)
        return max(guesser.missed_at + wait - self._clock(), 0.0)

    def missed(self, address: str) -> None:
        now, name = self._clock(), network(address)
        guesser = self._guessers.pop(name, _Guesser())
        if now - guesser.missed_at > FORGET_SECONDS:
            guesser.misses = 0
        guesser.misses, guesser.missed_at = guesser.misses + 1, now
        self._guessers[name] = guesser
        if len(self._guessers) > MAX_ADDRESSES:
            self._guessers.popitem(last=False)
        if guesser.misses == FREE_MISSES:
            log.warning("%s", _WARNING[terminal_language()].format(address=name))

    def succeeded(self, address: str) -> None:
        self._guessers.pop(network(address), None)


def network(address: str) -> str:
    """Return the address, or the network of an IPv6 address: everybody with IPv6 has 2**64 addresses at least."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ip) if ip.is_loopback else str(ipaddress.ip_network((ip, 64), strict=False))
