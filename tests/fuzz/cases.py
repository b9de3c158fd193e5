"""What a fuzzer feeds: files by name, in one string of bytes that can be kept as a reproducer.

A case is a byte of flags, then each file in a fixed order as a length of four bytes and the content. Whatever the bytes
are, they decode to some case, so both engines may change them as they like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

MEND = 1
"""Flag: make the checksums right again, as whoever forges a file would. Otherwise no change gets beyond them."""

Files = Mapping[str, bytes]


def encode(flags: int, files: Files, order: Sequence[str]) -> bytes:
    """A case as bytes."""
    parts = [files.get(name, b"") for name in order]
    return bytes([flags & 0xFF]) + b"".join(len(part).to_bytes(4, "little") + part for part in parts)


def decode(case: bytes, order: Sequence[str]) -> tuple[int, dict[str, bytes]]:
    """Flags and files of a case; a length that leads too far ends where the bytes end."""
    files, at = {}, 1
    for name in order:
        size = int.from_bytes(case[at : at + 4], "little")
        files[name] = case[at + 4 : at + 4 + size]
        at += 4 + size
    return (case[0] if case else 0), files
