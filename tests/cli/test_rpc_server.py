"""`--rpc-server`: at which address a node listens."""

from __future__ import annotations

import os
import sys

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
    refused = ("box:50052", "300.1.1.1:50052", "127.0.0.01:50052", "0", "65536", "::1", "[::1]:50052", "50052; ls")
    for value in (*refused, "５００５２"):
        with subtests.test(value=value), pytest.raises(OptionError):
            flags.parse(["--rpc-server", value])


def test_an_address_in_use_is_named_with_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "wait_for_rpc", lambda *_: None)
    with fake_node() as node, pytest.raises(NodeNotStarted, match=rf"{node.address}.*--rpc-server"):
        run(flags.parse(["--rpc-server", node.address]), "en")


class Replaced(Exception):
    """The process would have been replaced."""


def test_a_node_gets_its_address_threads_and_devices_and_an_open_one_a_warning(
    free_port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    commands: list[list[str]] = []

    def replace(program: str, command: list[str], environment: dict[str, str]) -> None:
        assert program == sys.executable and "PATH" in environment
        commands.append(command[1:])
        raise Replaced

    monkeypatch.setattr(install, "wait_for_rpc", lambda *_: None)
    monkeypatch.setattr(os, "execve", replace)
    for host, language, more in (("127.0.0.1", "en", ["--cpu"]), ("0.0.0.0", "zh", [])):
        with pytest.raises(Replaced):
            run(flags.parse(["--rpc-server", f"{host}:{free_port}", "--threads", "3", *more]), language)
    module = ["-m", "modules.engines.llamacpp.rpc_server"]
    assert commands == [
        [*module, f"127.0.0.1:{free_port}", "3", "cpu"],
        [*module, f"0.0.0.0:{free_port}", "3", "gpu"],
    ]
    printed = capsys.readouterr()
    assert f"--rpc 127.0.0.1:{free_port} --n-gpu-layers -1" in printed.out and f"--rpc IP:{free_port}" in printed.out
    warning = f"警告：RPC 节点没有密码，也不加密。能访问 0.0.0.0:{free_port} "
    assert printed.err.startswith(warning) and printed.err.count("\n") == 1
