"""What people type to name a model: every form that is taken, and what is said of those that are not."""

from __future__ import annotations

import pytest
from huggingface_hub.utils import HFValidationError, validate_repo_id

from modules.hub.errors import BadAddress
from modules.hub.repo_id import Address, parse

ENDPOINTS = ("https://mirror.example:8443/hf", "http://127.0.0.1:9000")
SHA = "0123456789abcdef0123456789abcdef01234567"

TAKEN = {
    "facebook/galactica-125m": Address("facebook/galactica-125m"),
    "https://huggingface.co/facebook/galactica-125m": Address("facebook/galactica-125m"),
    "https://huggingface.co/facebook/galactica-125m:main": Address("facebook/galactica-125m", "main"),
    "facebook/galactica-125m:main": Address("facebook/galactica-125m", "main"),
    "oobabooga/llama-tokenizer": Address("oobabooga/llama-tokenizer"),
    "  user/model \n": Address("user/model"),
    "user/model/": Address("user/model"),
    "user/model@v1.0": Address("user/model", "v1.0"),
    "user/model:feature/long-context_2": Address("user/model", "feature/long-context_2"),
    "user/model:refs/pr/3": Address("user/model", "refs/pr/3"),
    f"user/model@{SHA}": Address("user/model", SHA),
    "user/model:main/": Address("user/model", "main"),
    "TheBloke/Llama-2-7B-GPTQ:gptq-4bit-32g-actorder_True": Address(
        "TheBloke/Llama-2-7B-GPTQ", "gptq-4bit-32g-actorder_True"
    ),
    "https://hf.co/user/model": Address("user/model"),
    "http://huggingface.co/user/model": Address("user/model"),
    "HTTPS://HuggingFace.co/User/Model": Address("User/Model"),
    "https://www.huggingface.co/user/model": Address("user/model"),
    "https://hf-mirror.com/user/model/": Address("user/model"),
    "hf-mirror.com/user/model": Address("user/model"),
    "huggingface.co/user/model/tree/main": Address("user/model"),
    "https://huggingface.co/user/model?library=transformers#usage": Address("user/model"),
    "https://huggingface.co/user/model/tree/main": Address("user/model"),
    "https://huggingface.co/user/model/tree/dev/sub/folder": Address("user/model", "dev", folder="sub/folder"),
    "https://huggingface.co/user/model/tree/refs%2Fpr%2F1": Address("user/model", "refs/pr/1"),
    "https://huggingface.co/user/model/tree/refs/pr/1/sub": Address("user/model", "refs/pr/1", folder="sub"),
    f"https://huggingface.co/user/model/commit/{SHA}": Address("user/model", SHA),
    "https://huggingface.co/user/model/blob/main/model.Q4_K_M.gguf": Address("user/model", file="model.Q4_K_M.gguf"),
    "https://huggingface.co/user/model/resolve/main/a/b%20c.bin?download=true": Address("user/model", file="a/b c.bin"),
    "https://huggingface.co/user/model/raw/main/config.json": Address("user/model", file="config.json"),
    "user/model/blob/main/config.json": Address("user/model", file="config.json"),
    "https://mirror.example:8443/hf/user/model:dev": Address("user/model", "dev"),
    "https://mirror.example:8443/user/model": Address("user/model"),
    "http://127.0.0.1:9000/user/model/resolve/main/模型.gguf": Address("user/model", file="模型.gguf"),
    "0x/_1.b_": Address("0x/_1.b_"),
}

REFUSED = {
    "": "",
    "   ": "",
    "model": "user's name",
    "model:main": "user's name",
    "user/": "user's name",
    "/user/model": "Names have",
    "user//model": "Names have",
    "user/mo del": "",
    "user/model:": "Branches",
    "user/model:-rf": "Branches",
    "user/model:/main": "Branches",
    "user/model:a..b": "Branches",
    "user/model:a//b": "Branches",
    "user/model:" + "b" * 201: "Branches",
    "user/model:main;rm": "Branches",
    "user/model:分支": "Branches",
    "user/" + "m" * 97: "Names have",
    "../../etc/passwd": "Names have",
    "user/..": "Names have",
    "user/-model": "Names have",
    "user/mo--del": "Names have",
    "user/model.git": "Names have",
    "user/mödel": "Names have",
    "user/model\x00": "",
    "user/model\u202e": "",
    "x" * 3000: "",
    "https://huggingface.co/datasets/user/data": "not the address of a model",
    "https://huggingface.co/spaces/user/space": "not the address of a model",
    "datasets/user/data": "not the address of a model",
    "https://huggingface.co/docs/hub": "not the address of a model",
    "https://huggingface.co/user/model/discussions/1": "kind of link",
    "https://huggingface.co/user/model/tree": "kind of link",
    "https://huggingface.co/user/model/blob/main": "names no file",
    "https://huggingface.co/user/model/blob/main/../x": "names no file",
    "https://huggingface.co/user/model/resolve/main/%2e%2e%2fx": "names no file",
    "https://huggingface.co/user/model/tree/%2e%2e/x": "Branches",
    "https://example.com/user/model": "example.com is not an endpoint",
    "https://me:secret@huggingface.co/user/model": "huggingface.co is not an endpoint",
    "https://huggingface.co:444/user/model": "is not an endpoint",
    "file:///etc/passwd": "kind of link",
    "ftp://huggingface.co/user/model": "kind of link",
    "https://[::1/user/model": "kind of link",
}


def test_an_address_is_parsed(subtests: pytest.Subtests) -> None:
    for text in TAKEN:
        with subtests.test(text=text):
            assert parse(text, ENDPOINTS) == TAKEN[text]


def test_an_invalid_address_is_refused_with_the_reason(subtests: pytest.Subtests) -> None:
    for text in REFUSED:
        with subtests.test(text=text):
            with pytest.raises(BadAddress) as caught:
                parse(text, ENDPOINTS)
            assert REFUSED[text] in caught.value.why["en"]
            assert bool(caught.value.why["en"]) == bool(caught.value.why["zh"]) == bool(REFUSED[text])
            assert "user/model:branch" in caught.value.say("en") and "用户名/模型名" in caught.value.say("zh")


def test_huggingface_accepts_every_repository_that_is_accepted(subtests: pytest.Subtests) -> None:
    for text in TAKEN:
        with subtests.test(text=text):
            validate_repo_id(parse(text, ENDPOINTS).repo)


REFUSED_BY_HUGGINGFACE = ["user/-m", "user/m-", "user/m.", "user/a..b", "user/a--b", "user/m.git", "u/" + "m" * 97]


def test_a_name_that_huggingface_refuses_is_refused(subtests: pytest.Subtests) -> None:
    for name in REFUSED_BY_HUGGINGFACE:
        with subtests.test(name=name):
            with pytest.raises(HFValidationError):
                validate_repo_id(name)
            with pytest.raises(BadAddress):
                parse(name)


def test_a_link_to_an_endpoint_is_understood_only_while_it_is_set() -> None:
    with pytest.raises(BadAddress):
        parse("http://127.0.0.1:9000/user/model")
