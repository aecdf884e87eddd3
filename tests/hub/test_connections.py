"""Pending connects and reads can be aborted at once, and no socket stays open."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from modules.hub.client import HubClient
from modules.hub.errors import DownloadError, MirrorUnreachable, Stopped
from modules.hub.file_source import HubFileSource
from modules.hub.repository import RemoteFile
from tests.support.hub_reading import BIG, REPO, large_file, read_body
from tests.support.hub_server import HubServer


def abort_while_blocked(wait: Callable[[], object], abort: Callable[[], None]) -> tuple[float, BaseException | None]:
    """Call `abort` while `wait` blocks; return the seconds until `wait` ended, and its error."""
    results: list[tuple[float, BaseException | None]] = []

    def run() -> None:
        try:
            wait()
        except DownloadError as error:
            results.append((time.monotonic(), error))
        else:
            results.append((time.monotonic(), None))

    thread = threading.Thread(target=run)
    thread.start()
    time.sleep(0.4)
    assert not results
    started = time.monotonic()
    abort()
    thread.join(5)
    assert results, "the call is still blocked"
    return results[0][0] - started, results[0][1]


@pytest.fixture
def patient_hub(served: HubServer) -> Iterator[HubClient]:
    """A client with long timeouts."""
    hub = HubClient(served.url)
    yield hub
    hub.close()


@pytest.mark.parametrize("connection", [None, "close"])
def test_a_stalled_read_ends_at_once_when_its_body_is_closed(
    served: HubServer, patient_hub: HubClient, connection: str | None
) -> None:
    served.fault("big", origin="cdn", stall_after=1000, headers={"Connection": connection})
    source = patient_hub.source(patient_hub.repository(REPO, "main"))
    body = source.open(large_file(patient_hub), 0, len(BIG))
    seconds, error = abort_while_blocked(lambda: read_body(body), body.close)
    assert seconds < 0.3 and isinstance(error, Stopped)
    with pytest.raises(Stopped):
        next(body.chunks())


@pytest.fixture
def tls_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with TLS, whose certificate is trusted during the test."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is needed to create the certificate")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {certificate}"
    arguments = [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(arguments, check=True, capture_output=True)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    hub = HubServer()
    server = hub._servers[0]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    hub.url = hub.url.replace("http:", "https:")
    with hub:
        yield hub


@pytest.mark.parametrize("connection", [None, "close"])
@pytest.mark.parametrize("which", ["body", "source"])
def test_a_stalled_read_over_tls_ends_at_once_when_it_is_closed(
    tls_hub: HubServer, connection: str | None, which: str
) -> None:
    tls_hub.add(REPO, {"small.bin": BIG}, lfs_above=1 << 30)
    hub = HubClient(tls_hub.url)
    repository = hub.repository(REPO, "main")
    source = hub.source(repository)
    assert read_body(source.open(repository.files[0], 0, len(BIG))) == BIG
    tls_hub.fault("small", stall_after=1000, headers={"Connection": connection})
    body = source.open(repository.files[0], 0, len(BIG))
    seconds, error = abort_while_blocked(lambda: read_body(body), body.close if which == "body" else source.close)
    assert seconds < 0.3 and isinstance(error, Stopped)


def test_closing_the_source_ends_all_pending_reads(served: HubServer, patient_hub: HubClient) -> None:
    served.fault("big", origin="cdn", stall_after=1000)
    source = patient_hub.source(patient_hub.repository(REPO, "main"))
    body = source.open(large_file(patient_hub), 0, len(BIG))
    seconds, error = abort_while_blocked(lambda: read_body(body), source.close)
    assert seconds < 0.3 and isinstance(error, Stopped)
    with pytest.raises(Stopped):
        source.open(large_file(patient_hub), 0, 5)


def test_closing_the_source_ends_a_wait_for_headers(served: HubServer, patient_hub: HubClient) -> None:
    source = patient_hub.source(patient_hub.repository(REPO, "main"))
    served.fault("big", delay=60)
    file = large_file(patient_hub)
    seconds, error = abort_while_blocked(lambda: source.open(file, 0, 5), source.close)
    assert seconds < 0.3 and isinstance(error, Stopped)


def open_until_stopped(source: HubFileSource, file: RemoteFile) -> None:
    with pytest.raises(Stopped):
        source.open(file, 0, 5)


def test_closing_the_source_ends_threads_that_wait_for_a_link(served: HubServer, patient_hub: HubClient) -> None:
    source = patient_hub.source(patient_hub.repository(REPO, "main"))
    served.fault("big", delay=60)
    file = large_file(patient_hub)
    thread = threading.Thread(target=open_until_stopped, args=(source, file))
    thread.start()
    seconds, error = abort_while_blocked(lambda: source.open(file, 5, 10), source.close)
    thread.join(5)
    assert seconds < 0.3 and isinstance(error, Stopped) and not thread.is_alive()
    assert len(served.requests("big")) == 1


@pytest.mark.parametrize("fault", [{"delay": 60}, {"stall_after": 2}], ids=str)
def test_closing_the_client_ends_a_wait_for_a_list(
    served: HubServer, patient_hub: HubClient, fault: dict[str, object]
) -> None:
    served.fault("/revision/", **fault)
    seconds, error = abort_while_blocked(lambda: patient_hub.repository(REPO, "main"), patient_hub.close)
    assert seconds < 0.3 and isinstance(error, Stopped)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_closing_the_client_ends_a_pending_connect(scheme: str) -> None:
    """With http the server's backlog is full; with https the server accepts the connection and sends nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        address = server.getsockname()
        clients = [socket.socket() for _ in range(3 if scheme == "http" else 0)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex(address)
        hub = HubClient(f"{scheme}://127.0.0.1:{address[1]}")
        seconds, error = abort_while_blocked(lambda: hub.resolve_commit(REPO, "main"), hub.close)
        for client in clients:
            client.close()
    assert seconds < 0.3 and isinstance(error, Stopped)


def test_an_unread_body_releases_its_connection(served: HubServer, hub: HubClient, source: HubFileSource) -> None:
    body = source.open(large_file(hub), 0, len(BIG))
    body.close()
    assert body._response.raw.closed
    assert read_body(source.open(large_file(hub), 0, 10)) == BIG[:10]


def test_a_half_read_body_releases_its_connection(hub: HubClient, source: HubFileSource) -> None:
    body = source.open(large_file(hub), 0, len(BIG))
    chunks = body.chunks()
    next(chunks)
    chunks.close()  # type: ignore[attr-defined]
    assert body._response.raw.closed


def test_no_socket_is_left_open(served: HubServer) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    count_before = None
    for _ in range(3):
        hub = HubClient(served.url)
        source = hub.source(hub.repository(REPO, "main"))
        read_body(source.open(large_file(hub), 0, 100_000))
        source.close()
        hub.close()
        time.sleep(0.2)  # until the server has closed its sockets
        count_before = count_before or count()
    assert count() <= count_before


def resolve_to(monkeypatch: pytest.MonkeyPatch, *ports: int) -> None:
    """Let every name have the loopback address with these ports."""
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in ports]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)


def test_the_next_address_of_a_name_is_used_if_one_refuses(
    served: HubServer, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_to(monkeypatch, free_port, int(served.url.rpartition(":")[2]))
    with closing(HubClient("http://mirror.example", connect_seconds=1, read_seconds=1)) as hub:
        assert hub.resolve_commit(REPO, "main") == served.repos[REPO].branches["main"]


def test_a_name_without_a_usable_address_is_an_unreachable_mirror(
    free_port: int, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    for ports in ((), (free_port, free_port)):
        with subtests.test(ports=len(ports)), closing(HubClient("http://mirror.example", connect_seconds=1)) as hub:
            resolve_to(monkeypatch, *ports)
            with pytest.raises(MirrorUnreachable, match=r"mirror\.example"):
                hub.resolve_commit(REPO, "main")
