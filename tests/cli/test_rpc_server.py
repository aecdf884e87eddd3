"""`--rpc-server`: at which address a node listens."""

from __future__ import annotations

import pytest

from modules.cli.rpc_server import node_address, run
from modules.config import flags
from modules.core.errors import OptionError
from modules.core.rpc_errors import NodeNotStarted
from modules.setup import install
from tests.support.fake_node import fake_node


def test_a_node_listens_on_loopback_unless_an_address_is_typed() -> None:
    found = {"50052": "127.0.0.1:50052", ":50052": "127.0.0.1:50052", "localhost:1": "127.0.0.1:1"}
    found |= {"0.0.0.0:50052": "0.0.0.0:50052", "192.168.1.20:50052": "192.168.1.20:50052"}
    for value, address in found.items():
        assert node_address(flags.parse(["--rpc-server", value]).text("rpc_server")) == address


def test_names_and_impossible_addresses_are_refused(subtests: pytest.Subtests) -> None:
    for value in ("box:50052", "300.1.1.1:50052", "0", "65536", "::1", "[::1]:50052", "50052; ls"):
        with subtests.test(value=value), pytest.raises(OptionError):
            flags.parse(["--rpc-server", value])


def test_an_address_in_use_is_named_with_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "wait_for_rpc", lambda *_: None)
    with fake_node() as node, pytest.raises(NodeNotStarted, match=rf"{node.address}.*--rpc-server"):
        run(flags.parse(["--rpc-server", node.address]), "en")
