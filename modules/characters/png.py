"""The chunks of PNG files, in which character cards are kept as texts: `chara` has a card V1 or V2, `ccv3` a card V3.

Pictures are not decoded.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
import zlib
from collections.abc import Iterator

from modules.characters.card import MAX_JSON_BYTES, as_version, dump_json, parse_card
from modules.characters.errors import CardProblem
from modules.core.events import Json
from modules.core.quotes import in_quotes

SIGNATURE = b"\x89PNG\r\n\x1a\n"
_CARD_KEYWORDS = ("ccv3", "chara")  # the newer format first
_MAX_TEXT_BYTES = MAX_JSON_BYTES * 4 // 3 + 100_000  # base64, with line breaks
_MAX_CHUNKS = 50_000
_TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt")
_SPACE = re.compile(rb"\s+")

Chunk = tuple[bytes, bytes]
"""The type and the data of a chunk."""


def read_card(data: bytes) -> dict[str, Json]:
    """Return the card in a PNG file. Raises CardProblem."""
    texts: dict[str, Chunk] = {}
    for kind, body in chunks(data):
        if kind in _TEXT_CHUNKS and (keyword := _keyword(body)) in _CARD_KEYWORDS:
            texts.setdefault(keyword, (kind, body))
    for keyword in _CARD_KEYWORDS:
        if keyword in texts:
            return parse_card(_decoded(_text(*texts[keyword])))
    raise CardProblem(
        "the picture has no character card in it; the place it comes from may have removed it",
        "图片中没有角色卡，可能已被来源网站去除",
    )


def without_card(data: bytes) -> bytes:
    """Return the PNG file without the chunks of cards. Raises CardProblem."""
    return joined([(kind, body) for kind, body in chunks(data) if not _is_card(kind, body)])


def with_card(data: bytes, card: dict[str, Json]) -> bytes:
    """Return the PNG file with `card` as V2 and as V3, instead of those it has. Raises CardProblem."""
    kept = [(kind, body) for kind, body in chunks(data) if not _is_card(kind, body)]
    texts = [
        (b"tEXt", keyword + b"\0" + base64.b64encode(dump_json(as_version(card, spec)).encode()))
        for keyword, spec in ((b"chara", "chara_card_v2"), (b"ccv3", "chara_card_v3"))
    ]
    return joined([*kept[:-1], *texts, kept[-1]])


def blank_picture(width: int = 400, height: int = 600) -> bytes:
    """Return a PNG file with a plain picture, for the cards of characters that have none."""
    row = b"\0" + bytes((0x8A, 0x94, 0xA6)) * width
    return joined(
        [
            (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
            (b"IDAT", zlib.compress(row * height, 9)),
            (b"IEND", b""),
        ]
    )


def chunks(data: bytes) -> Iterator[Chunk]:
    """Yield the chunks up to IEND. Raises CardProblem for a file that is damaged."""
    if not data.startswith(SIGNATURE):
        raise CardProblem("it is not a PNG file", "它不是 PNG 文件")
    view, at = memoryview(data), len(SIGNATURE)
    for _ in range(_MAX_CHUNKS):
        if at + 12 > len(data):
            raise _truncated()
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 8 + length
        if end + 4 > len(data):
            raise _truncated()
        if zlib.crc32(view[at + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            name = kind.decode("ascii", "replace")
            raise CardProblem(
                f"the checksum of its part {name!r} is wrong, so the file is damaged; download it again",
                f"其中{in_quotes(name)}部分的校验和错误，文件已损坏，请重新下载",
            )
        yield kind, bytes(view[at + 8 : end])
        if kind == b"IEND":
            return
        at = end + 4
    raise CardProblem(f"it has more than {_MAX_CHUNKS:,} parts", f"其中的部分超过 {_MAX_CHUNKS:,} 个")


def _truncated() -> CardProblem:
    return CardProblem("the PNG file is cut off; download it again", "PNG 文件不完整，请重新下载")


def joined(parts: list[Chunk]) -> bytes:
    """Return a PNG file of these chunks."""
    return SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in parts
    )


def _is_card(kind: bytes, body: bytes) -> bool:
    return kind in _TEXT_CHUNKS and _keyword(body) in _CARD_KEYWORDS


def _keyword(body: bytes) -> str:
    return body.partition(b"\0")[0].decode("latin-1").lower()


def _text(kind: bytes, body: bytes) -> bytes:
    """Return the text of a chunk. Raises CardProblem."""
    rest = body.partition(b"\0")[2]
    if kind == b"tEXt":
        return rest
    if kind == b"zTXt":
        return _inflated(rest[1:])
    flags, rest = rest[:2], rest[2:].split(b"\0", 2)[-1]  # iTXt: behind the language and the translated keyword
    return _inflated(rest) if flags[:1] == b"\1" else rest


def _inflated(data: bytes) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, _MAX_TEXT_BYTES + 1)
    except zlib.error as error:
        raise CardProblem("its card cannot be unpacked", "其中的角色卡无法解压") from error


def _decoded(text: bytes) -> bytes:
    """Return what is encoded in base64. Raises CardProblem."""
    if len(text) > _MAX_TEXT_BYTES:
        raise CardProblem(
            f"its card has more than {MAX_JSON_BYTES // 1_000_000} MB",
            f"其中的角色卡超过 {MAX_JSON_BYTES // 1_000_000} MB",
        )
    compact = _SPACE.sub(b"", text).rstrip(b"=")
    try:
        return base64.b64decode(compact + b"=" * (-len(compact) % 4), validate=True)
    except binascii.Error as error:
        raise CardProblem(
            "its card is not valid base64, so the file is damaged", "其中的角色卡不是有效的 base64，文件已损坏"
        ) from error
