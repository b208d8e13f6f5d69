"""What a file that no format claims looks like, so that the refusal can say what to do."""

from __future__ import annotations

import re
from pathlib import Path

from initaudit.formats.zip_names import zip_names

_MAGIC = (
    (b"\x1f\x8b", "gzip-compressed; unpack it first: gunzip"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed; unpack it first: unzstd"),
    (b"BZh", "bzip2-compressed; unpack it first: bunzip2"),
    (b"\xfd7zXZ\x00", "xz-compressed; unpack it first: unxz"),
    (b"\x04\x22\x4d\x18", "lz4-compressed; unpack it first: unlz4"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive; unpack it and pass a file inside"),
    (b"Rar!", "a RAR archive; unpack it and pass a file inside"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"\x7fELF", "an ELF program or library"),
    (b"MZ", "a Windows program or library"),
    (b"%PDF", "a PDF document"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"SQLite format 3", "an SQLite database"),
    (b"PAR1", "a Parquet table"),
    (b"ARROW1", "an Arrow table"),
)
_CONTROL = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")  # what text does not contain; \x1b starts colours
_PROBES = 9  # places looked at before a file is called all zeros
_PROBE = 4096


def describe(path: Path, head: bytes, known: str) -> str:
    """Return one line on what a file is instead of a model, and what to do; `known` lists what is read."""
    what = _what(path, head)
    return what if ";" in what else f"{what}; initaudit reads {known}"


def _what(path: Path, head: bytes) -> str:
    if head.startswith((b"version https://git-lfs", b"version https://hawser")):
        size = re.search(rb"^size (\d{1,20})$", head, re.MULTILINE)
        of = f" to {size[1].decode()} bytes" if size else ""
        return f"a git-lfs pointer{of}, not the file itself; fetch it first: git lfs pull"
    if head.startswith(b"PK\x03\x04"):
        if zip_names(path):
            return "a zip archive, but no checkpoint of torch; unpack it and pass a file inside"
        return "a zip archive that is cut off or damaged; its directory cannot be read"
    for magic, what in _MAGIC:
        if head.startswith(magic):
            return what
    if _text(head):
        return _kind_of_text(path, head)
    if not head.strip(b"\0"):
        return _zeros(path)
    return f"no format knows its content (it starts with {head[:8].hex(' ')})"


def _text(head: bytes) -> bool:
    if _CONTROL.search(head):
        return False
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start >= len(head) - 3 and error.start > 0  # a character cut by the end of the head
    return True


def _kind_of_text(path: Path, head: bytes) -> str:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:512].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "a web page, saved instead of the model; download the file that it links to"
    if start.startswith(b"<?xml"):
        return "an XML file"
    if start.startswith((b"{", b"[")):
        if path.suffix == ".json":
            return "a JSON file with no weights in it; pass its folder, or the file of weights beside it"
        return "a JSON file or the like"
    if start.startswith((b"invalid username", b"access to model", b"entry not found", b"repository not found")):
        return "an error message of a download, saved instead of the model; download it again"
    return "a text file"


def _zeros(path: Path) -> str:
    """Say that only zeros were found where we looked: reading all of a large file would take minutes."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        for n in range(1, _PROBES):
            file.seek(max(0, (size - _PROBE) * n // (_PROBES - 1)))
            if file.read(_PROBE).strip(b"\0"):
                return "no format knows its content (it starts with zero bytes)"
    whole = "only zero bytes" if size <= _PROBE else "only zero bytes, wherever looked"
    return f"{whole}; a download that never finished, perhaps"
