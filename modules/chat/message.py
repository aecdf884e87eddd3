"""Messages of a conversation, as chat templates get them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Message = Mapping[str, Any]
"""{"role": "system" | "developer" | "user" | "assistant" | "tool", "content": str}, as in OpenAI's API.

`content` may also be a list of parts, {"type": "text", "text": str}.
"""
