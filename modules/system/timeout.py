"""`asyncio.timeout`, which Python 3.10 does not have."""

from __future__ import annotations

import sys

if sys.version_info >= (3, 11):
    from asyncio import timeout
else:
    import contextlib
    from collections.abc import AsyncIterator

    import anyio

    @contextlib.asynccontextmanager
    async def timeout(seconds: float) -> AsyncIterator[None]:
        """Cancel the block after so many seconds, and raise TimeoutError in its place."""
        with anyio.fail_after(seconds):
            yield


__all__ = ["timeout"]
