"""The paths of the API beside /v1."""

from __future__ import annotations

ROOT_PATHS = frozenset(
    {
        *("/health", "/metrics", "/props", "/slots"),
        "/rerank",
        *("/tokenize", "/detokenize", "/apply-template", "/infill"),
        *("/models", "/models/load", "/models/unload", "/models/sse"),
    }
)
"""Endpoints of llama-server at the root."""

FOREIGN_PATHS = ("/api", "/completion", "/embedding", "/lora-adapters")
"""Where clients look for Ollama, LM Studio and more of llama-server: answered 404 in the format of the API."""


def is_api_path(path: str) -> bool:
    """Return whether a path is one of the API: under /v1, at the root, or one that clients of other servers try."""
    path = path.rstrip("/")
    return path in ROOT_PATHS or any(path == start or path.startswith(f"{start}/") for start in ("/v1", *FOREIGN_PATHS))
