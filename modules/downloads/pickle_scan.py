"""What a pickle would call when it is loaded: read from its opcodes, of which none is executed.

Source: pickletools; `_legacy_load` and `_load` of torch.serialization; the list of names in torch's
_weights_only_unpickler.py, and what numpy writes for an array.
"""

from __future__ import annotations

import io
import pickletools
import re
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from modules.core.errors import Words
from modules.hub.errors import PickleRefused, PickleUnclear

MOST_BYTES = 64 << 20
"""Of opcodes and what they hold: a thousand times what those of a large model take; tensors lie beside them."""
MOST_AT_ONCE = 16 << 20
"""Bytes read in one piece: the list of what is in a zip is one, and larger in memory."""
MOST_OPCODES = 2_000_000
_LOOK_EVERY = 1 << 14
_ZIP = b"PK\x03\x04"  # what torch goes by
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, OverflowError)
_MAGIC = 0x1950A86A20F9469CFC6C
_OF_TORCH = 5
"""Pickles at the start of torch's old format; raw numbers follow."""

_TEXTS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_EXTENSIONS = {"EXT1", "EXT2", "EXT4"}  # names by number, from a table that a program may have

_PLAIN = {"set", "bytearray", "complex"}
_REBUILD = {
    *("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "qtensor", "sparse_tensor"),
    *("nested_tensor", "meta_tensor_no_storage", "device_tensor_from_numpy", "device_tensor_from_cpu_tensor"),
    "wrapper_subclass",
}
_ALLOWED = {
    *(("collections", name) for name in ("OrderedDict", "Counter", "defaultdict")),
    *((module, name) for module in ("builtins", "__builtin__") for name in _PLAIN),
    *(("torch._utils", f"_rebuild_{name}") for name in _REBUILD),
    *(("torch", name) for name in ("Size", "Tensor", "device")),
    *(("torch.storage", name) for name in ("TypedStorage", "UntypedStorage")),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("_codecs", "encode"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch.nn.parameter", "Parameter"),
    ("torch.serialization", "_get_layout"),
}
_MODULES = {"torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse"}
_KINDS = re.compile(
    r"(?:BFloat16|Bool|Byte|Char|Complex(?:Double|Float)|Double|Float|Half|Int|Long|Short|QU?Int\d+(?:x\d)?)"
    r"(?:Storage|Tensor)"
)
_NUMBERS = re.compile(
    r"bool|bfloat16|float\d+(?:_e\dm\d\w*)?|complex\d+|q?u?int\d+(?:x\d)?|bits\d+(?:x\d)?"
    r"|per_(?:tensor|channel)_(?:affine|symmetric|affine_float_qparams)"
)

_DAMAGED: Words = {"en": "it is damaged, or no pickle", "zh": "文件已损坏，或不是 pickle"}
_TOO_LARGE: Words = {"en": "it is too large to be checked", "zh": "内容过大，无法检查"}
_HIDDEN: Words = {"en": "it hides what it calls", "zh": "其中隐藏了要调用的名称"}
_TAR: Words = {"en": "it is a tar archive, of which no part is checked", "zh": "它是 tar 归档，无法检查"}


class _Unclear(Exception):
    def __init__(self, why: Words) -> None:
        super().__init__(why["en"])
        self.why = why


def scan(path: Path, name: str, watch: Callable[[int], None]) -> None:
    """Read the pickles in the file at `path`, which is called `name` in messages. `watch` is called now and then with
    the number of opcodes read; it may raise.

    PickleRefused for the first name that is not one of those that weights need; PickleUnclear if it cannot be told.
    OSError.
    """
    try:
        with _Limited(io.FileIO(path)) as file:
            zipped = file.read(len(_ZIP)) == _ZIP
            file.seek(0)
            _Scan(name, watch).zipped(file) if zipped else _Scan(name, watch).bare(file)
    except _Unclear as error:
        raise PickleUnclear(name, error.why) from None


class _Scan:
    """Of one file: what it has read counts together."""

    def __init__(self, name: str, watch: Callable[[int], None]) -> None:
        self._name, self._watch = name, watch
        self._count = 0
        self.left = MOST_BYTES

    def zipped(self, file: IO[bytes]) -> None:
        """Every pickle in torch's format, under whatever name: which of two alike is taken is for the loader to say."""
        try:
            with zipfile.ZipFile(file) as archive:
                inside = [each for each in archive.infolist() if each.filename.lower().endswith(".pkl")]
                if not any(each.filename.lower().endswith("data.pkl") for each in inside):
                    raise _Unclear(_DAMAGED)
                for each in inside:
                    with archive.open(each) as stream:
                        self._pickle(_Bounded(stream, self))
        except _ZIP_FAULTS as error:
            raise _Unclear(_DAMAGED) from error

    def bare(self, file: IO[bytes]) -> None:
        """One pickle after the other; of torch's old format those at its start."""
        if _is_tar(file):  # which torch looks into, too
            raise _Unclear(_TAR)
        stream = _Bounded(file, self)
        first = self._pickle(stream)
        if first == _MAGIC:
            for _ in range(_OF_TORCH - 1):
                self._pickle(stream)
            return
        while not stream.at_end():
            self._pickle(stream)

    def _pickle(self, stream: _Bounded) -> object:
        """Up to its end. The last value that is written in it."""
        recent: list[str | None] = []  # the last two things pushed, if there was nothing between them; None if no text
        memo: dict[int, str | None] = {}
        last: object = None
        try:
            for opcode, told, _ in pickletools.genops(stream):  # type: ignore[arg-type]
                self._tick()
                if opcode.name in _PUTS:
                    memo[len(memo) if opcode.name == "MEMOIZE" else int(str(told))] = recent[-1] if recent else None
                elif opcode.name in _TEXTS:
                    recent[:] = [*recent[-1:], told if isinstance(told, str) else None]
                elif opcode.name in _GETS:
                    recent[:] = [*recent[-1:], memo.get(int(str(told)))]
                else:
                    self._check(opcode.name, told, recent)
                    recent.clear()
                    last = told if told is not None else last
        except (ValueError, UnicodeError, OverflowError, MemoryError) as error:
            raise _Unclear(_DAMAGED) from error
        return last

    def _tick(self) -> None:
        self._count += 1
        if self._count > MOST_OPCODES:
            raise _Unclear(_TOO_LARGE)
        if self._count % _LOOK_EVERY == 0:
            self._watch(self._count)

    def _check(self, opcode: str, told: Any, recent: list[str | None]) -> None:
        if opcode in _EXTENSIONS:
            raise _Unclear(_HIDDEN)
        if opcode in ("GLOBAL", "INST"):
            module, _, name = str(told).partition(" ")
        elif opcode == "STACK_GLOBAL":
            if len(recent) < 2 or recent[0] is None or recent[1] is None:
                raise _Unclear(_HIDDEN)
            module, name = recent[0], recent[1]
        else:
            return
        if not _allowed(module, name):
            raise PickleRefused(self._name, f"{module}.{name}"[:200])


class _Limited(io.BufferedReader):
    """A file that refuses to be read in too large a piece."""

    def read(self, count: int | None = -1, /) -> bytes:
        limited = MOST_AT_ONCE + 1 if count is None or count < 0 else count
        found = super().read(min(limited, MOST_AT_ONCE + 1))
        if len(found) > MOST_AT_ONCE:
            raise _Unclear(_TOO_LARGE)
        return found


class _Bounded:
    """A stream that is read as far as a scan may read."""

    def __init__(self, stream: IO[bytes], scan: _Scan) -> None:
        self._stream, self._scan = stream, scan

    def read(self, count: int, /) -> bytes:
        if not 0 <= count <= self._scan.left:
            raise _Unclear(_TOO_LARGE)
        return self._counted(self._stream.read(count))

    def readline(self) -> bytes:
        return self._counted(self._stream.readline(self._scan.left + 1))

    def at_end(self) -> bool:
        place = self._stream.tell()
        ended = not self._stream.read(1)
        self._stream.seek(place)
        return ended

    def _counted(self, found: bytes) -> bytes:
        self._scan.left -= len(found)
        if self._scan.left < 0:
            raise _Unclear(_TOO_LARGE)
        return found


def _allowed(module: str, name: str) -> bool:
    if (module, name) in _ALLOWED:
        return True
    of_torch = module in _MODULES and _KINDS.fullmatch(name)
    return bool(of_torch or (module == "torch" and _NUMBERS.fullmatch(name)))


def _is_tar(file: IO[bytes]) -> bool:
    try:
        with tarfile.open(fileobj=file, mode="r:"):
            return True
    except (tarfile.TarError, ValueError, EOFError):
        return False
    finally:
        file.seek(0)
