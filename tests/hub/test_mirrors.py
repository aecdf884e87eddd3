"""Which mirrors are asked, and what is made of what they have."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modules.downloads.request import wanted
from modules.hub.endpoints import Token
from modules.hub.errors import BadEndpoint, BadToken, MirrorUnreachable, RepositoryNotFound
from modules.hub.mirrors import Hubs, token_from
from modules.hub.repo_id import Address
from modules.hub.repository import RemoteFile, Repository
from tests.support import hub_server
from tests.support.gguf_files import MODEL, gguf
from tests.support.hub_reading import FILES, REPO

NOBODY = "http://127.0.0.1:9"
OID = "0" * 40


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


def repository(*paths: str, revision: str = "main") -> Repository:
    return Repository(REPO, revision, OID, tuple(RemoteFile(path, 1, git_oid=OID) for path in paths))


def test_the_flag_counts_more_than_the_environment_and_that_more_than_the_settings(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert Hubs("", lambda: "").endpoints == ("https://hf-mirror.com", "https://huggingface.co")
    assert Hubs("", lambda: "of-the-settings").endpoints == ("https://of-the-settings",)
    monkeypatch.setenv("HF_ENDPOINT", "https://of-the-environment/")
    assert Hubs("", lambda: "of-the-settings").endpoints == ("https://of-the-environment",)
    assert Hubs("one, two", lambda: "").endpoints == ("https://one", "https://two")


def test_what_is_chosen_on_the_page_counts_more_than_any() -> None:
    hubs = Hubs("of-the-flag", lambda: "")
    hubs.choose("other")
    assert hubs.endpoints == ("https://other",)
    hubs.choose("")
    assert hubs.endpoints == ("https://of-the-flag",)


def test_a_wrong_endpoint_is_refused_at_once_and_changes_nothing() -> None:
    with pytest.raises(BadEndpoint):
        Hubs("ftp://one", lambda: "")
    hubs = Hubs("one", lambda: "")
    with pytest.raises(BadEndpoint):
        hubs.choose("two, https://user:secret@three")
    assert hubs.endpoints == ("https://one",)


def test_the_next_endpoint_answers_for_one_that_cannot_be_reached(served: hub_server.Hub) -> None:
    found = Hubs(f"{NOBODY},{served.url}", lambda: "").repository(Address(REPO))
    assert {file.path for file in found.files} == set(FILES)


def test_the_error_that_says_most_is_told(served: hub_server.Hub) -> None:
    with pytest.raises(RepositoryNotFound):
        Hubs(f"{NOBODY},{served.url}", lambda: "").repository(Address("no/body"))
    with pytest.raises(MirrorUnreachable):
        Hubs(NOBODY, lambda: "").repository(Address(REPO))


def test_a_list_that_was_seen_is_asked_for_again_only_if_wished(served: hub_server.Hub) -> None:
    hubs = Hubs(served.url, lambda: "")
    first = hubs.repository(Address(REPO))
    asked = len(served.log)
    assert hubs.repository(Address(REPO), again=False) is first and len(served.log) == asked
    hubs.repository(Address(REPO))
    assert len(served.log) > asked


def test_what_is_wanted_goes_where_the_selection_says() -> None:
    ggufs = repository("sub/a.Q4_K_M.gguf")
    told = wanted(ggufs, ggufs.files)
    assert (told.target, told.kind, told.flat, told.files) == ("", "model", True, ("sub/a.Q4_K_M.gguf",))
    lora = repository("adapter_config.json", "adapter_model.safetensors", revision="other")
    told = wanted(lora, lora.files)
    assert (told.target, told.kind, told.flat) == (f"{REPO.replace('/', '_')}_other", "lora", False)
    assert wanted(lora, lora.files, "model").kind == "model"


def test_what_was_seen_is_remembered_without_asking_and_what_was_not_is_not(served: hub_server.Hub) -> None:
    hubs = Hubs(served.url, lambda: "")
    assert hubs.seen(Address(REPO)) is None and served.log == []
    found = hubs.repository(Address(REPO))
    asked = len(served.log)
    assert hubs.seen(Address(REPO)) == found and len(served.log) == asked
    hubs.choose("https://elsewhere.example")
    assert hubs.seen(Address(REPO)) is None, "another hub may have another"


def test_a_token_is_had_by_the_hubs_that_are_opened_from_then_on(served: hub_server.Hub) -> None:
    hubs = Hubs(served.url, lambda: "")
    hubs.repository(Address(REPO))
    assert not any(each.authorization for each in served.log)
    hubs.allow(Token("hf_secret", frozenset({served.url.removeprefix("http://")})))
    hubs.repository(Address(REPO))
    assert served.log[-1].authorization == "Bearer hf_secret"


def test_the_environment_has_a_token_for_hugging_face_alone() -> None:
    assert token_from({}) is None and token_from({"HF_TOKEN": " "}) is None
    assert token_from({"HF_TOKEN": " hf_x "}) == Token("hf_x", frozenset({"huggingface.co"}))
    with pytest.raises(BadToken):
        token_from({"HF_TOKEN": "two words"})


def test_gguf_adapters_alone_are_loras_and_only_their_headers_say_so(served: hub_server.Hub) -> None:
    adapter = gguf({**MODEL, "general.type": "adapter"})
    served.add("user/mixed", {"a.gguf": adapter, "b.gguf": adapter, "m.gguf": gguf(), "x.gguf": b"x", "a.json": b"{}"})
    hubs = Hubs(served.url, lambda: "")
    found = hubs.repository(Address("user/mixed"))
    files = {each.path: each for each in found.files}
    assert hubs.kind(found, [files["a.gguf"]], ask=False) is None
    assert hubs.kind(found, [files["a.gguf"], files["b.gguf"]]) == "lora"
    asked = len(served.log)
    assert hubs.kind(found, [files["a.gguf"]]) == hubs.kind(found, [files["b.gguf"]], ask=False) == "lora"
    assert len(served.log) == asked, "what has been seen is not asked for again"
    for names in (["m.gguf"], ["a.gguf", "m.gguf"], ["x.gguf"], ["a.json"], []):
        assert hubs.kind(found, [files[name] for name in names]) is None
    assert hubs.kind(found, [replace(files["a.gguf"], size=2 << 30)]) is None
