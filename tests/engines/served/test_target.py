"""Where servers are, and the keys for them."""

from __future__ import annotations

import pytest

from modules.core.errors import OptionError
from modules.engines.served.target import Target


def test_a_target_names_its_origin_and_hides_its_key() -> None:
    target = Target.parse("https://host:8443/api/v1", key="sk-secret")
    assert (target.origin, target.authority, target.host, target.port) == (
        "https://host:8443",
        "host:8443",
        "host",
        8443,
    )
    assert target.path("/v1/models") == "/api/v1/models"
    assert "secret" not in repr(target)
    for address, path in (
        ("https://host/api/paas/v4", "/api/paas/v4/models"),
        ("https://host/v1beta/openai/", "/v1beta/openai/models"),
        ("https://host/openai/v1", "/openai/v1/models"),
        ("https://host/v", "/v/v1/models"),
        ("https://host", "/v1/models"),
    ):
        assert Target.parse(address).path("/v1/models") == path
    assert Target.parse("https://host/api/v3").path("/version") == "/api/v3/version"
    assert Target(socket="/run/vllm.sock").origin == "unix:/run/vllm.sock"
    assert Target(socket="/run/vllm.sock", name="vLLM").origin == "vLLM"
    with pytest.raises(OptionError, match="server_key_env") as error:
        Target.parse("http://host", key="secret\nX-Other: 1")
    assert "secret" not in str(error.value)
