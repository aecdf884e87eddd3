"""Cards in PNG files, and what is said of files that are damaged."""

from __future__ import annotations

import base64
import json
import zlib

import pytest

from modules.characters import png
from modules.characters.errors import CardProblem
from tests.support.cards import V1, V2, V3, png_file, text_chunk


def encoded(card: object) -> bytes:
    return base64.b64encode(json.dumps(card).encode())


def test_version_3_is_read_before_the_other_and_keywords_in_any_case() -> None:
    assert png.read_card(png_file(text_chunk("chara", V2), text_chunk("ccv3", V3))) == V3
    assert png.read_card(png_file(text_chunk("Chara", V1))) == V1


def test_compressed_and_international_texts_are_read() -> None:
    text = encoded(V2)
    assert png.read_card(png_file((b"zTXt", b"chara\0\0" + zlib.compress(text)))) == V2
    assert png.read_card(png_file((b"iTXt", b"chara\0\0\0en\0chara\0" + text))) == V2
    assert png.read_card(png_file((b"iTXt", b"ccv3\0\1\0\0\0" + zlib.compress(text)))) == V2


def test_base64_may_have_line_breaks_and_no_padding() -> None:
    text = encoded(V1).rstrip(b"=")
    assert png.read_card(png_file((b"tEXt", b"chara\0" + text[:76] + b"\r\n" + text[76:]))) == V1


def test_a_picture_keeps_everything_but_its_cards() -> None:
    other = (b"tEXt", b"Software\0Brush")
    assert png.without_card(png_file(other, text_chunk("chara", V1), text_chunk("ccv3", V3))) == png_file(other)


def test_an_exported_picture_has_both_versions(subtests: pytest.Subtests) -> None:
    for name, card in {"V1": V1, "V2": V2, "V3": V3}.items():
        with subtests.test(name):
            file = png.with_card(png_file(text_chunk("chara", V1)), card)
            texts = dict(body.split(b"\0") for kind, body in png.chunks(file) if kind == b"tEXt")
            cards = {keyword.decode(): json.loads(base64.b64decode(text)) for keyword, text in texts.items()}
            assert {keyword: one["spec"] for keyword, one in cards.items()} == {
                "chara": "chara_card_v2",
                "ccv3": "chara_card_v3",
            }
            for one in cards.values():
                assert one["data"]["description"] == "Ada is a mathematician."
            assert card is V1 or card in cards.values()


def test_damaged_files_are_refused_with_the_reason(subtests: pytest.Subtests) -> None:
    whole = png_file(text_chunk("chara", V1))
    wrong_sum = bytearray(whole)
    wrong_sum[whole.index(b"chara") + 9] ^= 1
    cases = {
        "cut off": (whole[:-20], "cut off"),
        "only the signature": (png.SIGNATURE, "cut off"),
        "a length beyond the end": (png.SIGNATURE + b"\xff\xff\xff\xffIHDR" + bytes(20), "cut off"),
        "checksum": (bytes(wrong_sum), "checksum"),
        "no card": (png_file((b"tEXt", b"Comment\0hello")), "no character card"),
        "base64": (png_file((b"tEXt", b"chara\0!!!!")), "base64"),
        "not JSON": (png_file((b"tEXt", b"chara\0" + base64.b64encode(b"{]"))), "not JSON"),
        "not UTF-8": (png_file((b"tEXt", b"chara\0" + base64.b64encode(b'{"name": "\xff"}'))), "UTF-8"),
        "not deflate": (png_file((b"zTXt", b"chara\0\0oops")), "unpacked"),
        "too many parts": (png.joined([(b"tIME", b"")] * 50_001), "50,000 parts"),
        "not PNG": (b"GIF89a", "not a PNG"),
        "too large": (png_file((b"zTXt", b"chara\0\0" + zlib.compress(bytes(9_000_000)))), "2 MB"),
    }
    for name, (data, reason) in cases.items():
        with subtests.test(name):
            with pytest.raises(CardProblem, match=reason) as caught:
                png.read_card(data)
            assert caught.value.words["zh"]
