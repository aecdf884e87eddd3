"""Helpers for hub tests: a repository with a large file, and reading its bytes."""

from __future__ import annotations

from modules.hub.client import HubClient
from modules.hub.repository import Body, RemoteFile, Repository
from tests.support.hub_server import Content

BIG = bytes(range(256)) * 2000
REPO = "user/model"
FILES: dict[str, Content] = {"config.json": b'{"a": 1}', "empty.txt": b"", "sub/big one.bin": BIG}


def large_file(hub: HubClient) -> RemoteFile:
    return find_file(hub.repository(REPO, "main"), "sub/big one.bin")


def find_file(repository: Repository, path: str) -> RemoteFile:
    return next(file for file in repository.files if file.path == path)


def read_body(body: Body) -> bytes:
    pieces = list(body.chunks())
    assert all(0 < len(piece) <= 256 << 10 for piece in pieces)
    return b"".join(pieces)
