"""The order in which mirrors are requested, and the cache of their responses."""

from __future__ import annotations

from dataclasses import replace

import pytest

from modules.downloads.request import Selection
from modules.hub import mirrors as mirrors_module
from modules.hub.access_token import AccessToken
from modules.hub.errors import BadEndpoint, BadToken, MirrorUnreachable, RepositoryNotFound
from modules.hub.mirrors import Mirrors
from modules.hub.repo_id import RepoAddress
from modules.hub.repository import RemoteFile, Repository
from tests.support import hub_server
from tests.support.gguf_files import MODEL, gguf
from tests.support.hub_reading import FILES, REPO

UNREACHABLE = "http://127.0.0.1:9"
OID = "0" * 40


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


def repository(*paths: str, revision: str = "main") -> Repository:
    return Repository(REPO, revision, OID, tuple(RemoteFile(path, 1, git_oid=OID) for path in paths))


def test_the_flag_overrides_the_environment_which_overrides_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Mirrors("", lambda: "").endpoints == ("https://hf-mirror.com", "https://huggingface.co")
    assert Mirrors("", lambda: "of-the-settings").endpoints == ("https://of-the-settings",)
    monkeypatch.setenv("HF_ENDPOINT", "https://of-the-environment/")
    assert Mirrors("", lambda: "of-the-settings").endpoints == ("https://of-the-environment",)
    assert Mirrors("one, two", lambda: "").endpoints == ("https://one", "https://two")


def test_endpoints_chosen_on_the_page_override_all_others() -> None:
    mirrors = Mirrors("of-the-flag", lambda: "")
    mirrors.choose("other")
    assert mirrors.endpoints == ("https://other",)
    mirrors.choose("")
    assert mirrors.endpoints == ("https://of-the-flag",)


def test_an_invalid_endpoint_is_refused_at_once_and_changes_nothing() -> None:
    with pytest.raises(BadEndpoint):
        Mirrors("ftp://one", lambda: "")
    mirrors = Mirrors("one", lambda: "")
    with pytest.raises(BadEndpoint):
        mirrors.choose("two, https://user:secret@three")
    assert mirrors.endpoints == ("https://one",)


def test_the_next_endpoint_is_used_if_one_cannot_be_reached(served: hub_server.HubServer) -> None:
    repository = Mirrors(f"{UNREACHABLE},{served.url}", lambda: "").repository(RepoAddress(REPO))
    assert {file.path for file in repository.files} == set(FILES)


def test_a_permanent_error_is_reported_rather_than_an_unreachable_mirror(served: hub_server.HubServer) -> None:
    with pytest.raises(RepositoryNotFound):
        Mirrors(f"{UNREACHABLE},{served.url}", lambda: "").repository(RepoAddress("no/body"))
    with pytest.raises(MirrorUnreachable):
        Mirrors(UNREACHABLE, lambda: "").repository(RepoAddress(REPO))


def test_a_cached_list_is_refreshed_on_request(served: hub_server.HubServer) -> None:
    mirrors = Mirrors(served.url, lambda: "")
    repository = mirrors.repository(RepoAddress(REPO))
    requests_before = len(served.log)
    assert mirrors.repository(RepoAddress(REPO), refresh=False) is repository and len(served.log) == requests_before
    mirrors.repository(RepoAddress(REPO))
    assert len(served.log) > requests_before


def test_a_selection_determines_folder_and_kind() -> None:
    gguf_repository = repository("sub/a.Q4_K_M.gguf")
    spec = Selection(gguf_repository, gguf_repository.files).spec
    assert (spec.target, spec.kind, spec.flat, spec.files) == ("", "model", True, ("sub/a.Q4_K_M.gguf",))
    lora_repository = repository("adapter_config.json", "adapter_model.safetensors", revision="other")
    spec = Selection(lora_repository, lora_repository.files).spec
    assert (spec.target, spec.kind, spec.flat) == (f"{REPO.replace('/', '_')}_other", "lora", False)
    assert Selection(lora_repository, lora_repository.files, "model").spec.kind == "model"


def test_the_cached_repository_is_returned_without_a_request(served: hub_server.HubServer) -> None:
    mirrors = Mirrors(served.url, lambda: "")
    assert mirrors.cached_repository(RepoAddress(REPO)) is None and served.log == []
    repository = mirrors.repository(RepoAddress(REPO))
    requests_before = len(served.log)
    assert mirrors.cached_repository(RepoAddress(REPO)) == repository and len(served.log) == requests_before
    mirrors.choose("https://elsewhere.example")
    assert mirrors.cached_repository(RepoAddress(REPO)) is None, "the repository may differ on another hub"


def test_a_new_token_is_used_by_clients_opened_later(served: hub_server.HubServer) -> None:
    mirrors = Mirrors(served.url, lambda: "")
    mirrors.repository(RepoAddress(REPO))
    assert not any(request.authorization for request in served.log)
    mirrors.set_token(AccessToken("hf_secret", frozenset({served.url.removeprefix("http://")})))
    mirrors.repository(RepoAddress(REPO))
    assert served.log[-1].authorization == "Bearer hf_secret"


def test_the_token_of_the_environment_is_for_hugging_face_only() -> None:
    assert AccessToken.from_environment({}) is None and AccessToken.from_environment({"HF_TOKEN": " "}) is None
    assert AccessToken.from_environment({"HF_TOKEN": " hf_x "}) == AccessToken("hf_x", frozenset({"huggingface.co"}))
    with pytest.raises(BadToken):
        AccessToken.from_environment({"HF_TOKEN": "two words"})


def test_gguf_adapters_are_recognized_by_their_headers(served: hub_server.HubServer) -> None:
    adapter = gguf({**MODEL, "general.type": "adapter"})
    served.add("user/mixed", {"a.gguf": adapter, "b.gguf": adapter, "m.gguf": gguf(), "x.gguf": b"x", "a.json": b"{}"})
    mirrors = Mirrors(served.url, lambda: "")
    repository = mirrors.repository(RepoAddress("user/mixed"))
    files = {file.path: file for file in repository.files}
    assert mirrors.kind(repository, [files["a.gguf"]], fetch=False) is None
    assert mirrors.kind(repository, [files["a.gguf"], files["b.gguf"]]) == "lora"
    requests_before = len(served.log)
    assert mirrors.kind(repository, [files["a.gguf"]]) == "lora"
    assert mirrors.kind(repository, [files["b.gguf"]], fetch=False) == "lora"
    assert len(served.log) == requests_before, "known headers are not requested again"
    for names in (["m.gguf"], ["a.gguf", "m.gguf"], ["x.gguf"], ["a.json"], []):
        assert mirrors.kind(repository, [files[name] for name in names]) is None
    assert mirrors.kind(repository, [replace(files["a.gguf"], size=2 << 30)]) is None


def test_only_the_lists_and_headers_last_asked_for_are_kept(
    served: hub_server.HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrors_module, "CACHED_REPOSITORIES", 1)
    monkeypatch.setattr(mirrors_module, "CACHED_HEADERS", 1)
    served.add("user/two", {"a.gguf": gguf(), "b.gguf": gguf()})
    mirrors = Mirrors(served.url, lambda: "")
    first, second = RepoAddress(REPO), RepoAddress("user/two")
    mirrors.repository(first)
    repository = mirrors.repository(second)
    assert (mirrors.cached_repository(first), mirrors.cached_repository(second)) == (None, repository)
    a, b = repository.files
    for file in (a, b):
        mirrors.gguf_header(repository, [file])
    requests_before = len(served.log)
    mirrors.gguf_header(repository, [b])
    assert len(served.log) == requests_before
    mirrors.gguf_header(repository, [a])
    assert len(served.log) > requests_before
