"""The HTTP API: OpenAI's endpoints under /v1, and the original web UI's internal ones."""
