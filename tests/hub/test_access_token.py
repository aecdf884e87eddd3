"""The access token is sent to selected hosts only and never printed."""

from __future__ import annotations

import pytest

from modules.hub.access_token import AccessToken
from modules.hub.endpoint_url import HF_MIRROR, HUGGING_FACE
from modules.hub.errors import BadToken

HF = f"{HUGGING_FACE}/user/model/resolve/main/x"
ALPHA = "https://alpha.hf-mirror.com"

TOKEN_TARGETS: list[tuple[list[str], str, bool]] = [
    (["huggingface.co"], HF, True),
    (["huggingface.co"], "https://huggingface.co:443/x", True),
    (["huggingface.co"], "http://huggingface.co/x", False),
    (["huggingface.co"], "https://huggingface.co:444/x", False),
    (["huggingface.co"], "https://cdn.huggingface.co/x", False),
    (["huggingface.co"], "https://huggingface.co.evil.example/x", False),
    (["huggingface.co"], "https://huggingface.co@evil.example/x", False),
    (["huggingface.co"], "https://hf-mirror.com/x", False),
    (["hf-mirror.com"], "https://hf-mirror.com/x", True),
    ([], HF, False),
    (["127.0.0.1:8000"], "http://127.0.0.1:8000/x", True),
    (["localhost:8000"], "http://localhost:8000/x", True),
    (["127.0.0.1:8000"], "http://127.0.0.1:8001/x", False),
    (["192.168.0.2:80", "192.168.0.2"], "http://192.168.0.2/x", False),
    (["evil.localhost"], "http://evil.localhost/x", False),
]


def test_the_token_is_sent_to_selected_hosts_only(subtests: pytest.Subtests) -> None:
    for hosts, url, expected in TOKEN_TARGETS:
        with subtests.test(hosts=hosts, url=url):
            assert AccessToken("hf_secret", frozenset(hosts)).may_be_sent_to(url) is expected


def test_a_redirect_may_carry_the_token_to_hugging_face_only() -> None:
    token = AccessToken("hf_secret", frozenset({"huggingface.co", "hf-mirror.com", "alpha.hf-mirror.com"}))
    assert token.may_follow_redirect(f"{HF_MIRROR}/a", f"{HF_MIRROR}/b")
    assert token.may_follow_redirect(f"{HF_MIRROR}/a", HF)
    assert not token.may_follow_redirect(HF, f"{HF_MIRROR}/a")
    assert not token.may_follow_redirect(f"{HF_MIRROR}/a", f"{ALPHA}/a")
    assert not AccessToken("hf_secret", frozenset({"hf-mirror.com"})).may_follow_redirect(f"{HF_MIRROR}/a", HF)


def test_the_token_is_not_printed() -> None:
    token = AccessToken("hf_secret", frozenset({"huggingface.co"}))
    assert "hf_secret" not in f"{token} {token!r} {[token]}"
    assert token.header == {"Authorization": "Bearer hf_secret"}


@pytest.mark.parametrize("secret", ["", "a b", "a\r\nX: y", "令牌", " hf_x"])
def test_an_invalid_token_is_refused_without_printing_it(secret: str) -> None:
    with pytest.raises(BadToken) as caught:
        AccessToken(secret)
    assert not secret or secret not in caught.value.say("en")
