"""Files as somebody who means harm would make them: each would do damage if it were believed."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from image_folders import encode, picture
from safetensors.torch import save

JPEG = encode(picture(0))
DEEP = b"[" * 50_000
LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


class Bomb:
    """Writes a file when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.proof}",)


def pickles(proof: Path) -> dict[str, bytes]:
    """Programs in the clothes of weights, by what is tricky about them."""
    found = {f"protocol {number}": pickle.dumps(Bomb(proof), protocol=number) for number in range(6)}
    call = f"(S'touch {proof}'\ntR.".encode()
    found["by eval"] = b'c__builtin__\neval\n(S\'__import__("os").system("touch ' + str(proof).encode() + b"\")'\ntR."
    found["by an extension's code"] = b"\x80\x02\x82\x01" + call
    found["by a name on the stack"] = b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + call
    found["by a dotted name"] = b"\x80\x04\x8c\x05torch\x8c\x0eos.system\x93" + call
    found["by torch's own names"] = b"ctorch.serialization\nload\n" + call
    found["by an instance"] = b"(S'touch " + str(proof).encode() + b"'\niposix\nsystem\n."
    found["after a good part"] = pickle.dumps({"head.bias": [0.0]}, 2)[:-1] + b"0" + pickle.dumps(Bomb(proof), 2)
    found["text of any length"] = b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60)
    found["a number of any length"] = b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1)
    found["very deep"] = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    return found


def zipped(pickled: bytes, storage: bytes = b"\0" * 64, how: int = zipfile.ZIP_STORED) -> bytes:
    """A pickle in the zip that torch writes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", how) as file:
        for name, part in (("data.pkl", pickled), ("byteorder", b"little"), ("data/0", storage), ("version", b"3\n")):
            file.writestr(f"w/{name}", part)
    return content.getvalue()


def tensor_pickle(elements: int, shape: tuple[int, ...], stride: tuple[int, ...], name: str = "head.bias") -> bytes:
    """How torch describes a float tensor, with whatever numbers."""

    def number(value: int) -> bytes:
        return b"\x8a\x09" + value.to_bytes(9, "little", signed=True)

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    text = b"X" + len(name).to_bytes(4, "little") + name.encode()
    return (
        b"\x80\x02}" + text + b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\0\0\0storagectorch\nFloatStorage\n"
        b"X\x01\0\0\x000X\x03\0\0\0cpu" + number(elements) + b"tQ" + number(0) + numbers(shape) + numbers(stride)
        + b"\x89ccollections\nOrderedDict\n)RtRs."
    )  # fmt: skip


def weights(proof: Path) -> dict[str, tuple[str, bytes]]:
    """Name and content of files of weights, by what is wrong with them."""
    found = {f"pickle: {what}": ("w.pth", content) for what, content in pickles(proof).items()}
    found |= {f"pickle in a zip: {what}": ("w.pth", zipped(content)) for what, content in pickles(proof).items()}
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as packed:
        for name, content in (("storages", pickle.dumps(Bomb(proof), 2)), ("../outside", b"x")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))
    found["pickle in a tar"] = "w.pth", tar.getvalue()
    huge = 1 << 40
    found |= {
        "zip: a storage that is huge": ("w.pth", zipped(tensor_pickle(huge, (huge,), (1,)))),
        "zip: a view that repeats": ("w.pth", zipped(tensor_pickle(16, (1, huge, 24), (0, 0, 0), "pos_embed"))),
        "zip: a view beyond its storage": ("w.pth", zipped(tensor_pickle(16, (1 << 20,), (1,)))),
        "zip: packed a thousandfold": (
            "w.pth",
            zipped(tensor_pickle(1 << 24, (1 << 24,), (1,)), bytes(1 << 26), zipfile.ZIP_DEFLATED),
        ),
        "zip: a name that paints the terminal": ("w.pth", zipped(tensor_pickle(16, (16,), (1,), "\x1b[2Jhead.bias"))),
    }
    good = save({"head.bias": torch.zeros(4)})
    header = json.loads(good[8 : 8 + int.from_bytes(good[:8], "little")])

    def tensors(entry: dict[str, Any], data: bytes = bytes(16), **more: Any) -> tuple[str, bytes]:
        text = json.dumps({"head.bias": header["head.bias"] | entry, **more}).encode()
        return "w.safetensors", len(text).to_bytes(8, "little") + text + data

    found |= {
        "safetensors: a header of gigabytes": ("w.safetensors", (5 << 30).to_bytes(8, "little") + good[8:]),
        "safetensors: a header without end": ("w.safetensors", b"\xff" * 8 + good[8:]),
        "safetensors: deep": ("w.safetensors", len(DEEP).to_bytes(8, "little") + DEEP),
        "safetensors: beyond the end": tensors({"data_offsets": [0, 1 << 40], "shape": [1 << 38]}),
        "safetensors: backwards": tensors({"data_offsets": [16, 0]}),
        "safetensors: overlapping": tensors({}, **{"head.weight": header["head.bias"]}),
        "safetensors: a shape that wraps around": tensors({"shape": [1 << 63, 4]}),
        "safetensors: a shape that is huge": tensors({"shape": [1 << 50]}),
        "safetensors: a type that there is not": tensors({"dtype": "F4096"}),
    }
    return found


def _member(name: str, content: bytes = JPEG, **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, content


def _tar(*members: tuple[tarfile.TarInfo, bytes], how: int = tarfile.PAX_FORMAT) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", format=how) as tar:
        for member, part in members:
            tar.addfile(member, io.BytesIO(part) if part else None)
    return content.getvalue()


def _header(kind: bytes, size: int, name: str = "a.jpg") -> bytes:
    """A header that states a size in the binary form, which goes up to 2**87."""
    member = tarfile.TarInfo(name)
    member.type = kind
    block = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\x80" + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def tars() -> dict[str, bytes]:
    """Tars by what is wrong with them; whoever unpacked them, or believed their sizes, would regret it."""
    label = _member("a.cls", b"1")
    found = {
        "leads out": _tar(_member("../../outside.jpg"), label),
        "leads out in the middle": _tar(_member("a/../../outside.jpg"), label),
        "absolute": _tar(_member("/tmp/outside.jpg"), label),
        "twice the same": _tar(_member("a.jpg"), label, _member("a.jpg"), label),
        "a header of 8 GB": _header(tarfile.XHDTYPE, 8 << 30) + bytes(2048),
        "a name of 2**80 bytes": _header(tarfile.GNUTYPE_LONGNAME, 1 << 80) + bytes(2048),
        "an image of 2**60 bytes": _header(tarfile.REGTYPE, 1 << 60) + bytes(2048),
        "long names without end": b"".join([_header(tarfile.GNUTYPE_LONGNAME, 512) + bytes(512)] * 2000) + bytes(1024),
        "packed": gzip.compress(_tar(_member("a.jpg"), label)),
        "a packed bomb": gzip.compress(bytes(1 << 26)),
        "sparse": _header(tarfile.GNUTYPE_SPARSE, 1 << 40) + bytes(2048),
        "a label that is deep": _tar(_member("a.jpg"), _member("a.json", DEEP)),
        "a label that is huge": _tar(_member("a.jpg"), _member("a.json", b'{"label": ' + b"9" * 9000 + b"}")),
        "an escape sequence for a name": _tar(_member("\x1b]0;owned\x07.jpg"), _member("\x1b]0;owned\x07.cls", b"x")),
    }
    kinds = {"link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE, "device": tarfile.CHRTYPE,
             "block device": tarfile.BLKTYPE, "pipe": tarfile.FIFOTYPE}  # fmt: skip
    for what, kind in kinds.items():
        found[what] = _tar(_member("a.jpg", b"", type=kind, linkname="/etc/passwd"), label)
    return found


def png(width: int, height: int) -> bytes:
    """A PNG that states any size, and is a few bytes of zeros."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    begin = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + begin + chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A JPEG that states any size."""
    start = JPEG.index(b"\xff\xc0") + 5
    return JPEG[:start] + struct.pack(">HH", height, width) + JPEG[start + 4 :]


def images(proof: Path) -> dict[str, bytes]:
    """Images by what is wrong with them."""
    return {
        "png bomb": png(60_000, 60_000),
        "jpeg bomb": jpeg(60_000, 60_000),
        "eps": f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch {proof}) (w) file\nshowpage\n".encode(),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    }


Harm = Callable[[Path], object]


def _edited(name: str, change: Callable[[dict[str, Any]], object]) -> Harm:
    def harm(folder: Path) -> None:
        content = json.loads((folder / name).read_text())
        change(content)
        content.pop("content_sha256", None)
        (folder / name).write_text(json.dumps(content))

    return harm


def _replaced(name: str, content: bytes) -> Harm:
    return lambda folder: (folder / name).write_bytes(content)


def _piped(name: str) -> Harm:
    return lambda folder: ((folder / name).unlink(missing_ok=True), os.mkfifo(folder / name))


MANIFESTS: dict[str, Harm] = {
    "leads out": _edited("manifest.json", lambda c: c["shards"][0].update(name="../../outside.tar")),
    "absolute": _edited("manifest.json", lambda c: c["shards"][0].update(name="/etc/passwd")),
    "a shard twice": _edited("manifest.json", lambda c: c["shards"].append(c["shards"][0])),
    "samples without end": _edited("manifest.json", lambda c: c["shards"][0].update(samples=(1 << 32) - 1)),
    "deep": _replaced("manifest.json", DEEP),
    "a number of any length": _replaced("manifest.json", b'{"format_version": ' + b"9" * 9000 + b"}"),
    "half a character": _edited("manifest.json", lambda c: c.update(class_names=["\ud800"])),
    "a pipe": _piped("manifest.json"),
    "a pipe for the table": _piped("samples.npy"),
}
"""What is done to a prepared split, by name."""
