"""Accepted forms of model addresses, and the reasons why others are refused."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils._validators import validate_repo_id

from modules.hub.errors import BadAddress
from modules.hub.repo_id import RepoAddress, parse_address

ENDPOINTS = ("https://mirror.example:8443/hf", "http://127.0.0.1:9000")
SHA = "0123456789abcdef0123456789abcdef01234567"

ACCEPTED = {
    "facebook/galactica-125m": RepoAddress("facebook/galactica-125m"),
    "https://huggingface.co/facebook/galactica-125m": RepoAddress("facebook/galactica-125m"),
    "https://huggingface.co/facebook/galactica-125m:main": RepoAddress("facebook/galactica-125m", "main"),
    "facebook/galactica-125m:main": RepoAddress("facebook/galactica-125m", "main"),
    "oobabooga/llama-tokenizer": RepoAddress("oobabooga/llama-tokenizer"),
    "  user/model \n": RepoAddress("user/model"),
    "user/model/": RepoAddress("user/model"),
    "user/model@v1.0": RepoAddress("user/model", "v1.0"),
    "user/model:feature/long-context_2": RepoAddress("user/model", "feature/long-context_2"),
    "user/model:refs/pr/3": RepoAddress("user/model", "refs/pr/3"),
    f"user/model@{SHA}": RepoAddress("user/model", SHA),
    "user/model:main/": RepoAddress("user/model", "main"),
    "TheBloke/Llama-2-7B-GPTQ:gptq-4bit-32g-actorder_True": RepoAddress(
        "TheBloke/Llama-2-7B-GPTQ", "gptq-4bit-32g-actorder_True"
    ),
    "https://hf.co/user/model": RepoAddress("user/model"),
    "http://huggingface.co/user/model": RepoAddress("user/model"),
    "HTTPS://HuggingFace.co/User/Model": RepoAddress("User/Model"),
    "https://www.huggingface.co/user/model": RepoAddress("user/model"),
    "https://hf-mirror.com/user/model/": RepoAddress("user/model"),
    "hf-mirror.com/user/model": RepoAddress("user/model"),
    "huggingface.co/user/model/tree/main": RepoAddress("user/model"),
    "https://huggingface.co/user/model?library=transformers#usage": RepoAddress("user/model"),
    "https://huggingface.co/user/model/tree/main": RepoAddress("user/model"),
    "https://huggingface.co/user/model/tree/dev/sub/folder": RepoAddress("user/model", "dev", folder="sub/folder"),
    "https://huggingface.co/user/model/tree/refs%2Fpr%2F1": RepoAddress("user/model", "refs/pr/1"),
    "https://huggingface.co/user/model/tree/refs/pr/1/sub": RepoAddress("user/model", "refs/pr/1", folder="sub"),
    f"https://huggingface.co/user/model/commit/{SHA}": RepoAddress("user/model", SHA),
    "https://huggingface.co/user/model/blob/main/model.Q4_K_M.gguf": RepoAddress(
        "user/model", file="model.Q4_K_M.gguf"
    ),
    "https://huggingface.co/user/model/resolve/main/a/b%20c.bin?download=true": RepoAddress(
        "user/model", file="a/b c.bin"
    ),
    "https://huggingface.co/user/model/raw/main/config.json": RepoAddress("user/model", file="config.json"),
    "user/model/blob/main/config.json": RepoAddress("user/model", file="config.json"),
    "https://mirror.example:8443/hf/user/model:dev": RepoAddress("user/model", "dev"),
    "https://mirror.example:8443/user/model": RepoAddress("user/model"),
    "http://127.0.0.1:9000/user/model/resolve/main/模型.gguf": RepoAddress("user/model", file="模型.gguf"),
    "0x/_1.b_": RepoAddress("0x/_1.b_"),
}

REFUSED = {
    "": "",
    "   ": "",
    "model": "user name",
    "model:main": "user name",
    "user/": "user name",
    "/user/model": "Names consist",
    "user//model": "Names consist",
    "user/mo del": "",
    "user/model:": "Branch names",
    "user/model:-rf": "Branch names",
    "user/model:/main": "Branch names",
    "user/model:a..b": "Branch names",
    "user/model:a//b": "Branch names",
    "user/model:" + "b" * 201: "Branch names",
    "user/model:main;rm": "Branch names",
    "user/model:分支": "Branch names",
    "user/" + "m" * 97: "Names consist",
    "../../etc/passwd": "Names consist",
    "user/..": "Names consist",
    "user/-model": "Names consist",
    "user/mo--del": "Names consist",
    "user/model.git": "Names consist",
    "user/mödel": "Names consist",
    "user/model\x00": "",
    "user/model\u202e": "",
    "x" * 3000: "",
    "https://huggingface.co/datasets/user/data": "does not name a model",
    "https://huggingface.co/spaces/user/space": "does not name a model",
    "datasets/user/data": "does not name a model",
    "https://huggingface.co/docs/hub": "does not name a model",
    "https://huggingface.co/user/model/discussions/1": "of this kind",
    "https://huggingface.co/user/model/tree": "of this kind",
    "https://huggingface.co/user/model/blob/main": "file name in the link",
    "https://huggingface.co/user/model/blob/main/../x": "file name in the link",
    "https://huggingface.co/user/model/resolve/main/%2e%2e%2fx": "file name in the link",
    "https://huggingface.co/user/model/tree/%2e%2e/x": "Branch names",
    "https://example.com/user/model": "example.com is not a configured",
    "https://me:secret@huggingface.co/user/model": "huggingface.co is not a configured",
    "https://huggingface.co:444/user/model": "is not a configured",
    "file:///etc/passwd": "of this kind",
    "ftp://huggingface.co/user/model": "of this kind",
    "https://[::1/user/model": "of this kind",
}


def test_an_address_is_parsed(subtests: pytest.Subtests) -> None:
    for text in ACCEPTED:
        with subtests.test(text=text):
            assert parse_address(text, ENDPOINTS) == ACCEPTED[text]


def test_an_invalid_address_is_refused_with_the_reason(subtests: pytest.Subtests) -> None:
    for text in REFUSED:
        with subtests.test(text=text):
            with pytest.raises(BadAddress) as caught:
                parse_address(text, ENDPOINTS)
            assert REFUSED[text] in caught.value.why["en"]
            assert bool(caught.value.why["en"]) == bool(caught.value.why["zh"]) == bool(REFUSED[text])
            assert "user/model:branch" in caught.value.say("en") and "用户名/模型名" in caught.value.say("zh")


def test_huggingface_hub_accepts_the_accepted_repositories(subtests: pytest.Subtests) -> None:
    for text in ACCEPTED:
        with subtests.test(text=text):
            validate_repo_id(parse_address(text, ENDPOINTS).repo)


REFUSED_BY_HUGGINGFACE = ["user/-m", "user/m-", "user/m.", "user/a..b", "user/a--b", "user/m.git", "u/" + "m" * 97]


def test_names_that_huggingface_hub_refuses_are_refused(subtests: pytest.Subtests) -> None:
    for name in REFUSED_BY_HUGGINGFACE:
        with subtests.test(name=name):
            with pytest.raises(HFValidationError):
                validate_repo_id(name)
            with pytest.raises(BadAddress):
                parse_address(name)


def test_links_to_an_endpoint_are_accepted_only_while_it_is_configured() -> None:
    with pytest.raises(BadAddress):
        parse_address("http://127.0.0.1:9000/user/model")
