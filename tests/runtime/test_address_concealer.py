"""Errors of models on other machines, for people who are not to know where those are."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from modules.catalog.record_reader import server_record
from modules.core.errors import OptionError, WebUIError, both
from modules.core.lora_errors import LoraRefused
from modules.core.rpc_errors import NodesLost, NodeUnreachable
from modules.core.server_errors import ServerBrokeOff, ServerFailed, ServerRedirects, ServerRefused, ServerUnreachable
from modules.formats.server_file import ServerFile
from modules.loaders.load_settings import resolve
from modules.loaders.registry import LOADERS
from modules.runtime.address_concealer import AddressConcealer, concealer_of
from modules.runtime.load_plan import LoadPlan

URL = "https://gpu.example.com:8443/secret"
ORIGIN = "https://gpu.example.com:8443"


def plan(url: str = URL) -> LoadPlan:
    record = server_record("far", Path("far.server.yaml"), ServerFile(url))
    return LoadPlan(record, LOADERS["Remote"], {})


def concealed(error: WebUIError, url: str = URL) -> WebUIError:
    conceal = concealer_of(plan(url))
    assert isinstance(conceal, AddressConcealer)
    return conceal(error)


def test_an_error_calls_the_server_by_the_name_of_its_model() -> None:
    error = concealed(ServerUnreachable(ORIGIN, both("refused by gpu.example.com")))
    assert isinstance(error, ServerUnreachable)
    assert error.say("en").startswith("Cannot connect to far's server: refused by ….")
    assert error.say("zh").startswith("无法连接 far 的服务器：")
    assert WebUIError.from_json(error.to_json()).say("zh") == error.say("zh")


def test_what_a_server_says_is_kept_without_addresses() -> None:
    for words, expected in (
        ("model m is not at https://gpu.example.com:8443/v1, ask admin", "model m is not at … ask admin"),
        ("upstream 10.0.0.7:8000 failed; GPU.example.com:9 too", "upstream … failed; … too"),
        ("proxy http://user:pw@inner/x refused", "proxy … refused"),
        ("dial tcp [2001:DB8::5]:443: timeout", "dial tcp […]:443: timeout"),
        ("at fe80::1%eth0, ::ffff:10.0.0.7; add: std::bad_alloc", "at …, …; add: std::bad_alloc"),
        ("context is 4096, version 1.2.3, 12:30:01", "context is 4096, version 1.2.3, 12:30:01"),
    ):
        for error in (ServerRefused(ORIGIN, 400, words), ServerBrokeOff(ORIGIN, both(words)), LoraRefused("l", words)):
            assert expected in str(concealed(error)), words
    redirect = concealed(ServerRedirects(ORIGIN, "https://other.example.com/login"))
    assert "example.com" not in str(redirect)


def test_no_spelling_of_the_address_is_left() -> None:
    for url, origin in (
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
        ("http://[fe80::1]:8080", "http://[fe80::1]:8080"),
        ("https://gpu/x", "https://gpu"),
        ("http://GPU:80", "http://GPU:80"),
    ):
        host = url.partition("//")[2].partition("/")[0].rpartition(":")[0] or "gpu"
        for error in (
            ServerFailed(origin, 500, f"at {url} on {host}: out of memory"),
            OptionError("server_url", url, both("an address")),
        ):
            text = concealed(error, url).say("en")
            assert host not in text and host.strip("[]").lower() not in text.lower(), text


def test_nodes_are_concealed_and_models_on_this_machine_have_nothing_to_conceal() -> None:
    local = dataclasses.replace(plan(), record=dataclasses.replace(plan().record, server=None))
    assert concealer_of(local) is None
    flags = {"rpc": "gpu2:50052,10.0.0.9:50052", "n_gpu_layers": -1}
    settings = resolve(LOADERS["llama.cpp"], model={}, saved={}, flags=flags, form={})
    conceal = concealer_of(dataclasses.replace(local, loader=LOADERS["llama.cpp"], settings=settings))
    assert conceal is not None
    assert "gpu2" not in str(conceal(NodeUnreachable("gpu2:50052", "no route to gpu2")))
    assert "10.0.0.9" not in str(conceal(NodesLost(-6, both("generating"), "lost 10.0.0.9:50052", "10.0.0.9:50052")))
