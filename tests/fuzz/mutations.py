"""Lies that a format's own rules let one tell: fields of valid files changed where they stand."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from typing import Any

from cases import decode, encode
from hypothesis import strategies as st

_NUMBERS = (
    0,
    1,
    2,
    -1,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 32,
    (1 << 63) - 1,
    -(1 << 63),
    (1 << 64) - 1,
    10**30,
    10**400,
)
_VALUES: Sequence[Any] = (
    *_NUMBERS, None, True, "", "a", "../../../etc/passwd", "/etc/passwd", "x\0y", "\ud800", "\x1b[2J\n", 0.5, 1e308,
    [], {}, [[]], [[0, 1]], [0] * 40, {"a": 1}, "9" * 60,
)  # fmt: skip
_TEXTS = (
    b"9" * 5000, b"[" * 3000, b'{"a":' * 1200, b"NaN", b"-Infinity", b"1e999", b"\\ud800", b"\xff\xfe", b"\0",
    b"&a", b"*a", b"!!python/object/apply:os.system [id]", b"<<: *a", b"base: run.yaml", b"base: /dev/zero", b"\n",
    b"---\n", b"- ", b"? ",
    b"\x80\x02cos\nsystem\nX\x02\x00\x00\x00id\x85R.", b"\x8a\x7f", b"\x8b\xff\xff\xff\x7f", b"X\xff\xff\xff\x7f",
    b"cbuiltins\neval\n", b"c__main__\nx\n", b"27 path=" + b"a" * 18 + b"\n", b"GNU.sparse.size=99999999999",
)  # fmt: skip


class Case(bytes):
    """A case that is not printed: the file that it is left in says more."""

    def __repr__(self) -> str:
        return f"a case of {len(self)} bytes"


def mutated(seeds: Sequence[bytes], order: Sequence[str]) -> st.SearchStrategy[Case]:
    """Cases that differ from one of the given ones in a few places."""

    @st.composite
    def case(draw: st.DrawFn) -> Case:
        flags, files = decode(draw(st.sampled_from(seeds)), order)
        for _ in range(draw(st.integers(0, 3))):
            name = draw(st.sampled_from([name for name in order if files[name]] or list(order)))
            files[name] = _change(draw, name)(files[name], draw)
        return Case(encode(draw(st.sampled_from([flags, flags, flags, flags ^ 1])), files, order))

    return case()


_Change = Callable[[bytes, st.DrawFn], bytes]


def _change(draw: st.DrawFn, name: str) -> _Change:
    changes: list[_Change] = [_number, _byte, _cut, _text, _copied]
    if name.endswith((".json", ".safetensors")):
        changes += [_json_value, _json_value, _json_value]
    if name.endswith((".yaml", "overrides")):
        changes += [_text, _word]
    if name.endswith(".tar"):
        changes += [_tar_field, _tar_field]
    return draw(st.sampled_from(changes))


def _number(raw: bytes, draw: st.DrawFn) -> bytes:
    width, number = draw(st.sampled_from((1, 2, 4, 8))), draw(st.sampled_from(_NUMBERS[:11]))
    at = draw(st.integers(0, max(len(raw) - width, 0)))
    order = draw(st.sampled_from(("little", "big")))
    return raw[:at] + (number % (1 << 8 * width)).to_bytes(width, order) + raw[at + width :]  # type: ignore[arg-type]


def _byte(raw: bytes, draw: st.DrawFn) -> bytes:
    at = draw(st.integers(0, max(len(raw) - 1, 0)))
    return raw[:at] + bytes([draw(st.integers(0, 255))]) + raw[at + 1 :]


def _cut(raw: bytes, draw: st.DrawFn) -> bytes:
    first, last = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
    return draw(st.sampled_from((raw[:first], raw[first:], raw[:first] + raw[last:])))


def _copied(raw: bytes, draw: st.DrawFn) -> bytes:
    first, last = sorted((draw(st.integers(0, len(raw))), draw(st.integers(0, len(raw)))))
    return raw[:last] + raw[first : min(last, first + 4096)] * draw(st.sampled_from((1, 2, 20))) + raw[last:]


def _text(raw: bytes, draw: st.DrawFn) -> bytes:
    at = draw(st.integers(0, len(raw)))
    return raw[:at] + draw(st.sampled_from(_TEXTS)) + raw[at + draw(st.sampled_from((0, 0, 4))) :]


def _word(raw: bytes, draw: st.DrawFn) -> bytes:
    words = raw.split(b" ")
    words[draw(st.integers(0, len(words) - 1))] = draw(
        st.sampled_from((*_TEXTS, b"[1, 2]", b"{a: 1}", b"null", b"1e-3"))
    )
    return b" ".join(words)


def _tar_field(raw: bytes, draw: st.DrawFn) -> bytes:
    """A field of some header, octal as usual or in the binary form that allows more, and negative, numbers."""
    headers = [at for at in range(0, len(raw), 512) if raw[at + 257 : at + 262] == b"ustar"]
    block = draw(st.sampled_from(headers or [0]))
    start, width = draw(st.sampled_from(((0, 100), (100, 8), (124, 12), (136, 12), (156, 1), (157, 100), (345, 155))))
    if width == 1:
        value = draw(st.sampled_from(b"01234567gxLKSDVMN\0")).to_bytes(1, "big")
    elif width == 12:
        number = draw(st.sampled_from((*_NUMBERS[:11], 1 << 40, -512)))
        octal = b"%o" % abs(number)
        value = octal if draw(st.booleans()) else struct.pack(">Bxxxq", 0x80 if number >= 0 else 0xFF, number % 2**63)
    else:
        value = draw(st.sampled_from((b"/etc/passwd", b"../x.jpg", b"a.jpg", b"a.cls", b"\xff" * 20, b"x" * 100, b"")))
    return raw[: block + start] + value[:width].ljust(width, b"\0") + raw[block + start + width :]


def _json_value(raw: bytes, draw: st.DrawFn) -> bytes:
    """A value anywhere in the document replaced or taken away; safetensors begin with theirs."""
    is_tensors = raw[8:9] == b"{"
    size = int.from_bytes(raw[:8], "little") if is_tensors else 0
    try:
        content = json.loads(raw[8 : 8 + size] if is_tensors else raw)
    except (ValueError, RecursionError):
        return raw
    holder: Any = [content]
    key: Any = 0
    while isinstance(holder[key], (dict, list)) and holder[key] and draw(st.integers(0, 4)):
        holder = holder[key]
        key = draw(st.sampled_from(list(holder) if isinstance(holder, dict) else range(len(holder))))
    how = draw(st.sampled_from(("replace", "replace", "remove", "rename")))
    if how == "remove" and (isinstance(holder, dict) or len(holder) > 1):
        del holder[key]
    elif how == "rename" and isinstance(holder, dict):
        holder[draw(st.sampled_from([value for value in _VALUES if isinstance(value, str)]))] = holder.pop(key)
    else:
        holder[key] = draw(st.sampled_from(_VALUES))
    try:
        text = json.dumps(holder[0] if key == 0 and isinstance(holder, list) and len(holder) == 1 else content).encode()
    except (ValueError, RecursionError):
        return raw
    return len(text).to_bytes(8, "little") + text + raw[8 + size :] if is_tensors else text
