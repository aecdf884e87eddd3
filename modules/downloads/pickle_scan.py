"""Find out what loading a pickle would call, by reading its opcodes without executing any.

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
from modules.downloads.errors import PickleRefused, PickleUnclear

MAX_BYTES = 64 << 20
"""Limit for opcodes and their arguments: a thousand times what a large model needs; tensors are stored separately."""
MAX_READ = 16 << 20
"""Bytes of one read: the directory of a zip archive is read at once, and takes more than its size in memory."""
MAX_OPCODES = 2_000_000
_PROGRESS_INTERVAL = 1 << 14  # opcodes
_ZIP_SIGNATURE = b"PK\x03\x04"  # by which torch, too, recognizes its zip format
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, OverflowError)
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PICKLES = 5
"""Number of pickles at the start of torch's legacy format; raw numbers follow."""

_STRING_OPCODES = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE", "STRING", "BINSTRING", "SHORT_BINSTRING"}
_MEMO_READS = {"GET", "BINGET", "LONG_BINGET"}
_MEMO_WRITES = {"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"}
_EXTENSIONS = {"EXT1", "EXT2", "EXT4"}  # names by number, from the registry of the loading program

_BUILTIN_NAMES = {"set", "bytearray", "complex"}
_REBUILD_NAMES = {
    *("tensor", "tensor_v2", "tensor_v3", "parameter", "parameter_with_state", "qtensor", "sparse_tensor"),
    *("nested_tensor", "meta_tensor_no_storage", "device_tensor_from_numpy", "device_tensor_from_cpu_tensor"),
    "wrapper_subclass",
}
_ALLOWED_NAMES = {
    *(("collections", name) for name in ("OrderedDict", "Counter", "defaultdict")),
    *((module, name) for module in ("builtins", "__builtin__") for name in _BUILTIN_NAMES),
    *(("torch._utils", f"_rebuild_{name}") for name in _REBUILD_NAMES),
    *(("torch", name) for name in ("Size", "Tensor", "device")),
    *(("torch.storage", name) for name in ("TypedStorage", "UntypedStorage")),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *(("numpy", name) for name in ("ndarray", "dtype")),
    ("_codecs", "encode"),
    ("torch._tensor", "_rebuild_from_type_v2"),
    ("torch.nn.parameter", "Parameter"),
    ("torch.serialization", "_get_layout"),
}
_TORCH_MODULES = {"torch", "torch.cuda", "torch.sparse", "torch.cuda.sparse"}
_TENSOR_TYPE = re.compile(
    r"(?:BFloat16|Bool|Byte|Char|Complex(?:Double|Float)|Double|Float|Half|Int|Long|Short|QU?Int\d+(?:x\d)?)"
    r"(?:Storage|Tensor)"
)
_DTYPE = re.compile(
    r"bool|bfloat16|float\d+(?:_e\dm\d\w*)?|complex\d+|q?u?int\d+(?:x\d)?|bits\d+(?:x\d)?"
    r"|per_(?:tensor|channel)_(?:affine|symmetric|affine_float_qparams)"
)

_DAMAGED: Words = {"en": "it is damaged or not a pickle", "zh": "文件已损坏，或不是 pickle"}
_TOO_LARGE: Words = {"en": "it is too large to be checked", "zh": "内容过大，无法检查"}
_OBSCURED: Words = {"en": "it obscures what it calls", "zh": "其中隐藏了要调用的名称"}
_TAR: Words = {"en": "it is a tar archive, which cannot be checked", "zh": "是 tar 归档，无法检查"}


class _Unclear(Exception):
    def __init__(self, why: Words) -> None:
        super().__init__(why["en"])
        self.why = why


def scan_pickles(path: Path, name: str, on_progress: Callable[[int], None]) -> None:
    """Check the pickles in the file at `path`, which is called `name` in messages.

    `on_progress` is called from time to time with the number of opcodes read, and may raise to abort. Raises
    PickleRefused for the first name that weights do not need, PickleUnclear if the file cannot be checked, or OSError.
    """
    try:
        with _LimitedReader(io.FileIO(path)) as file:
            is_zip = file.read(len(_ZIP_SIGNATURE)) == _ZIP_SIGNATURE
            file.seek(0)
            scan = _FileScan(name, on_progress)
            scan.scan_zip(file) if is_zip else scan.scan_stream(file)
    except _Unclear as error:
        raise PickleUnclear(name, error.why) from None


class _FileScan:
    """Scans one file; the limits apply to all of its pickles together."""

    def __init__(self, name: str, on_progress: Callable[[int], None]) -> None:
        self._name, self._on_progress = name, on_progress
        self._opcodes = 0
        self.bytes_left = MAX_BYTES

    def scan_zip(self, file: IO[bytes]) -> None:
        """Scan every pickle of torch's zip format, whatever its name: loaders differ in which duplicate they read."""
        try:
            with zipfile.ZipFile(file) as archive:
                pickles = [entry for entry in archive.infolist() if entry.filename.lower().endswith(".pkl")]
                if not any(entry.filename.lower().endswith("data.pkl") for entry in pickles):
                    raise _Unclear(_DAMAGED)
                for entry in pickles:
                    with archive.open(entry) as stream:
                        self._scan_pickle(_BoundedStream(stream, self))
        except _ZIP_ERRORS as error:
            raise _Unclear(_DAMAGED) from error

    def scan_stream(self, file: IO[bytes]) -> None:
        """Scan consecutive pickles; of torch's legacy format, those at its start."""
        if _is_tar(file):  # torch would load pickles from the archive
            raise _Unclear(_TAR)
        stream = _BoundedStream(file, self)
        first = self._scan_pickle(stream)
        if first == _LEGACY_MAGIC:
            for _ in range(_LEGACY_PICKLES - 1):
                self._scan_pickle(stream)
            return
        while not stream.at_end():
            self._scan_pickle(stream)

    def _scan_pickle(self, stream: _BoundedStream) -> object:
        """Scan one pickle, and return the last opcode argument in it."""
        recent: list[str | None] = []  # the last two values pushed in direct succession; None if not a string
        memo: dict[int, str | None] = {}
        last: object = None
        try:
            for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]
                self._count_opcode()
                if opcode.name in _MEMO_WRITES:
                    memo[len(memo) if opcode.name == "MEMOIZE" else int(str(argument))] = recent[-1] if recent else None
                elif opcode.name in _STRING_OPCODES:
                    recent[:] = [*recent[-1:], argument if isinstance(argument, str) else None]
                elif opcode.name in _MEMO_READS:
                    recent[:] = [*recent[-1:], memo.get(int(str(argument)))]
                else:
                    self._check(opcode.name, argument, recent)
                    recent.clear()
                    last = argument if argument is not None else last
        except (ValueError, UnicodeError, OverflowError, MemoryError) as error:
            raise _Unclear(_DAMAGED) from error
        return last

    def _count_opcode(self) -> None:
        self._opcodes += 1
        if self._opcodes > MAX_OPCODES:
            raise _Unclear(_TOO_LARGE)
        if self._opcodes % _PROGRESS_INTERVAL == 0:
            self._on_progress(self._opcodes)

    def _check(self, opcode: str, argument: Any, recent: list[str | None]) -> None:
        """Check the name that an opcode would import, if any."""
        if opcode in _EXTENSIONS:
            raise _Unclear(_OBSCURED)
        if opcode in ("GLOBAL", "INST"):
            module, _, name = str(argument).partition(" ")
        elif opcode == "STACK_GLOBAL":
            if len(recent) < 2 or recent[0] is None or recent[1] is None:
                raise _Unclear(_OBSCURED)
            module, name = recent[0], recent[1]
        else:
            return
        if not _is_allowed(module, name):
            raise PickleRefused(self._name, f"{module}.{name}"[:200])


class _LimitedReader(io.BufferedReader):
    """A file that refuses to read more than MAX_READ bytes at once."""

    def read(self, count: int | None = -1, /) -> bytes:
        limit = MAX_READ + 1 if count is None or count < 0 else count
        data = super().read(min(limit, MAX_READ + 1))
        if len(data) > MAX_READ:
            raise _Unclear(_TOO_LARGE)
        return data


class _BoundedStream:
    """A stream of which no more is read than the limit of its scan allows."""

    def __init__(self, stream: IO[bytes], scan: _FileScan) -> None:
        self._stream, self._scan = stream, scan

    def read(self, count: int, /) -> bytes:
        if not 0 <= count <= self._scan.bytes_left:
            raise _Unclear(_TOO_LARGE)
        return self._count(self._stream.read(count))

    def readline(self) -> bytes:
        return self._count(self._stream.readline(self._scan.bytes_left + 1))

    def at_end(self) -> bool:
        position = self._stream.tell()
        ended = not self._stream.read(1)
        self._stream.seek(position)
        return ended

    def _count(self, data: bytes) -> bytes:
        self._scan.bytes_left -= len(data)
        if self._scan.bytes_left < 0:
            raise _Unclear(_TOO_LARGE)
        return data


def _is_allowed(module: str, name: str) -> bool:
    if (module, name) in _ALLOWED_NAMES:
        return True
    is_tensor_type = module in _TORCH_MODULES and _TENSOR_TYPE.fullmatch(name)
    return bool(is_tensor_type or (module == "torch" and _DTYPE.fullmatch(name)))


def _is_tar(file: IO[bytes]) -> bool:
    try:
        with tarfile.open(fileobj=file, mode="r:"):
            return True
    except (tarfile.TarError, ValueError, EOFError):
        return False
    finally:
        file.seek(0)
