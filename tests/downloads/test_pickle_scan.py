"""Pickles are scanned without executing them: names that weights need are allowed, all others are refused."""

from __future__ import annotations

import io
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest

from modules.downloads import pickle_scan
from modules.downloads.errors import PickleRefused, PickleUnclear
from modules.downloads.pickle_scan import scan_pickles
from modules.formats.weight_files import is_pickle
from modules.hub.errors import Stopped

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n(X\x01\x00\x00\x000ctorch\nBFloat16Storage\nctorch\nfloat8_e4m3fn\nt."
WEIGHTS = b"\x80\x02ccollections\nOrderedDict\n)R" + TENSOR
SYSTEM = b"cos\nsystem\n(S'true'\ntR."
MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)
OLD = MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)


class FileCreator:
    """Creates a file if it is ever executed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


def zipped(files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tar(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        member = tarfile.TarInfo("pickle")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def scan(folder: Path, content: bytes) -> None:
    path = folder / "part"
    path.write_bytes(content)
    scan_pickles(path, "model.bin", lambda _: None)


ALLOWED = {
    "torch's format": zipped({"archive/data.pkl": WEIGHTS, "archive/data/0": SYSTEM, "archive/version": b"3"}),
    "torch's old format with raw numbers": OLD + WEIGHTS + pickle.dumps(["0"], 2) + b"\0\1cos\nsystem\n",
    "a bare pickle": WEIGHTS,
    **{
        f"protocol {protocol}": pickle.dumps([OrderedDict(a=OrderedDict(b=1)), {2}, 3j], protocol)
        for protocol in range(6)
    },
}


def test_the_names_that_weights_need_are_allowed(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, name in enumerate(ALLOWED):
        with subtests.test(name=name):
            folder = tmp_path / str(number)
            folder.mkdir()
            scan(folder, ALLOWED[name])


REFUSED = {
    "in a zip": zipped({"archive/data.pkl": SYSTEM}),
    "in a second file of that name": zipped({"a/data.pkl": WEIGHTS, "a/DATA.PKL": SYSTEM}),
    "compressed": zipped({"a/data.pkl": SYSTEM}, zipfile.ZIP_DEFLATED),
    "bare": SYSTEM,
    "after another pickle": WEIGHTS + SYSTEM,
    "in the old format": OLD + SYSTEM,
    "by INST": b"(S'true'\nios\nsystem\n.",
    "by STACK_GLOBAL": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "by STACK_GLOBAL from the memo": b"\x80\x04\x8c\x06system\x94\x8c\x02os\x94h\x01h\x00\x93.",
    "by an attribute of an allowed module": b"\x80\x04\x8c\x05torch\x8c\x09os.system\x93.",
}


def test_an_unsafe_name_is_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, name in enumerate(REFUSED):
        with subtests.test(name=name):
            folder = tmp_path / str(number)
            folder.mkdir()
            with pytest.raises(PickleRefused) as refused:
                scan(folder, REFUSED[name])
            assert "os.system" in refused.value.say("en") and "model.bin" in refused.value.say("zh")


@pytest.mark.parametrize("protocol", range(6))
def test_no_pickle_is_executed(tmp_path: Path, protocol: int) -> None:
    with pytest.raises(PickleRefused, match=r"open"):
        scan(tmp_path, pickle.dumps(FileCreator(tmp_path / "ran"), protocol))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["_load_from_bytes", "FloatStorage.__class__", "load", "Evil", ""])
def test_other_names_of_torch_are_refused(tmp_path: Path, name: str) -> None:
    for module in ("torch", "torch.storage", "torch.cuda"):
        with pytest.raises(PickleRefused):
            scan(tmp_path, f"c{module}\n{name}\n.".encode())


AMBIGUOUS = {
    "an empty file": b"",
    "not a pickle": b"\0" * 100,
    "a truncated pickle": WEIGHTS[:-1],
    "a truncated zip": ALLOWED["torch's format"][:-30],
    "a zip without a pickle": zipped({"a/version": b"3"}),
    "a name that is not a string on the stack": b"\x80\x04\x8c\x02os2\x93.",
    "a name that was overwritten": b"\x80\x04\x8c\x05torchq\x00Nq\x00h\x00\x8c\x04Size\x93.",
    "a name from the extension registry": b"\x80\x02\x82\x01.",
    "a false length": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
    "a tar": tar(WEIGHTS),
}


def test_an_ambiguous_pickle_is_refused(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, name in enumerate(AMBIGUOUS):
        with subtests.test(name=name):
            folder = tmp_path / str(number)
            folder.mkdir()
            with pytest.raises(PickleUnclear, match=r"model\.bin"):
                scan(folder, AMBIGUOUS[name])


def test_an_expanding_pickle_is_stopped_at_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_scan, "MAX_BYTES", 1 << 17)
    bomb = zipped({"a/data.pkl": b"\x80\x02" + b"N0" * (4 << 20) + b"."}, zipfile.ZIP_DEFLATED)
    assert len(bomb) < 100_000
    with pytest.raises(PickleUnclear, match="too large"):
        scan(tmp_path, bomb)
    with pytest.raises(PickleUnclear, match="too large"):
        scan(tmp_path, b"V" + b"x" * (1 << 17) + b"\n.")
    monkeypatch.setattr(pickle_scan, "MAX_OPCODES", 1000)
    with pytest.raises(PickleUnclear, match="too large"):
        scan(tmp_path, b"\x80\x02" + b"N0" * 1000 + b"N.")


def test_a_zip_with_a_huge_directory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_scan, "MAX_READ", 100_000)
    scan(tmp_path, zipped({"a/data.pkl": WEIGHTS}))
    with pytest.raises(PickleUnclear, match="too large"):
        scan(tmp_path, zipped({"a/data.pkl": WEIGHTS} | {f"a/data/{number}": b"" for number in range(3000)}))


def test_a_scan_can_be_aborted(tmp_path: Path) -> None:
    path = tmp_path / "part"
    path.write_bytes(b"\x80\x02" + b"N0" * 50_000 + b"N.")

    def stop(_: int) -> None:
        raise Stopped

    with pytest.raises(Stopped):
        scan_pickles(path, "model.bin", stop)


def test_pickles_are_recognized_by_their_suffix() -> None:
    assert is_pickle("sub/PyTorch_Model.BIN") and is_pickle("a.ckpt")
    assert not is_pickle("model.safetensors") and not is_pickle("binary.gguf")
