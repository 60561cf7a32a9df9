"""Changes of files: of bytes, of the text of headers, of JSON, of tables, of DICOM elements, of zip members.

Every function takes a :class:`random.Random` and depends on nothing else, so a mutant is made again from its seed.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import random
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import pydicom

__all__ = ["SPECIAL_FILES", "Mutant", "mutate_bytes", "mutate_dicom", "mutate_gzip", "mutate_header", "mutate_json",
           "mutate_table", "mutate_zip"]  # fmt: skip

SPECIAL_FILES: Final = ("fifo", "socket", "device", "folder", "loop", "nothing", "sparse")


@dataclass(frozen=True)
class Mutant:
    """A changed file.

    Attributes
    ----------
    content : bytes
        Of the file; ignored for a special file.
    how : str
        What was changed, in words.
    special : str
        One of :data:`SPECIAL_FILES` if the file's place is taken by one; else empty.
    protected : bool
        A checksum of the format covers what was changed: other values must not be read from it.
    """

    content: bytes
    how: str
    special: str = ""
    protected: bool = False


_EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80", b"\0\0\xc0\x7f", b"\0\0\x80\x7f",
             b"\1\0\0\0", b"\xff\x7f", b"\0\x80", bytes(8), b"\xff" * 8)  # fmt: skip


def mutate_bytes(content: bytes, draw: random.Random, first: int = 0, last: int | None = None) -> Mutant:
    """Change bytes from ``first`` to ``last``: bits, chunks, numbers of a binary header, the end of the file."""
    data = bytearray(content)
    end = len(data) if last is None else min(last, len(data))
    if end <= first:
        return Mutant(content + b"x", "one byte more")
    place = draw.randrange(first, end)
    how = draw.choice(("flip", "flip", "flips", "cut", "zeros", "noise", "remove", "double", "extreme", "longer"))
    length = draw.choice((1, 4, 16, 64, 256, 1000))
    if how == "flip":
        data[place] ^= 1 << draw.randrange(8)
    elif how == "flips":
        for _ in range(draw.randint(2, 20)):
            data[draw.randrange(first, end)] ^= 1 << draw.randrange(8)
    elif how == "cut":
        del data[place:]
    elif how == "zeros":
        stop = min(place + length, end)
        data[place:stop] = bytes(stop - place)
    elif how == "noise":
        stop = min(place + length, end)
        data[place:stop] = draw.randbytes(stop - place)
    elif how == "remove":
        del data[place : min(place + length, end)]
    elif how == "double":
        data[place:place] = data[place : min(place + length, end)]
    elif how == "extreme":
        place = draw.randrange(first, min(end, first + 400))
        number = draw.choice(_EXTREMES)
        data[place : place + len(number)] = number
    else:
        data += draw.choice((bytes(length), draw.randbytes(length), content))
    return Mutant(bytes(data), f"{how} at {place} of {len(content)}")


def mutate_gzip(content: bytes, draw: random.Random) -> Mutant:
    """Change bytes inside a gzip file and compress them again: its checksum is right."""
    inner = gzip.decompress(content)
    mutant = mutate_bytes(inner, draw, 0, draw.choice((400, len(inner))))
    return Mutant(gzip.compress(mutant.content, 1, mtime=0), f"within gzip: {mutant.how}")


_TOKENS = ("0", "-1", "1", "2", "1e9", "1e-9", "nan", "inf", "-inf", "1e400", "99999999999", "4294967296", "x", "",
           "%s%s%s", "%n%n", "s%s.raw 1 24 1", "s%0300d.raw 1 24 1", "f%d.raw 1 10 0", "../secret.raw", "/etc/passwd",
           "/dev/zero", "LIST", "LOCAL", "A" * 200, "A" * 100_000, "True", "False", "MET_DOUBLE", "MET_UCHAR", "double",
           "uint8", "gzip", "raw", "bzip2", "ascii", "hex", "none", "(1,0,0)", "(0,0,0)", "(nan,0,0)", "big", "little",
           "3 3 3", "\0", "\x1b[2J", "ä")  # fmt: skip


def mutate_header(content: bytes, length: int, draw: random.Random) -> Mutant:
    """Change words and lines of a header of text that is ``length`` bytes long; what follows stays as it is."""
    lines = content[:length].split(b"\n")
    how = []
    for _ in range(draw.choice((1, 1, 1, 2))):
        row = draw.randrange(len(lines))
        action = draw.choice(("word", "word", "word", "value", "value", "remove", "double", "swap", "long", "extra"))
        words = lines[row].split(b" ")
        if action == "word":
            words[draw.randrange(len(words))] = draw.choice(_TOKENS).encode()
            lines[row] = b" ".join(words)
        elif action == "value":
            separator = b"=" if b"=" in lines[row] else b":"
            lines[row] = lines[row].split(separator)[0] + separator + b" " + draw.choice(_TOKENS).encode()
        elif action == "remove":
            del lines[row]
        elif action == "double":
            lines.insert(row, lines[row])
        elif action == "swap":
            other = draw.randrange(len(lines))
            lines[row], lines[other] = lines[other], lines[row]
        elif action == "long":
            lines[row] += b" 1" * draw.choice((100, 10_000, 300_000))
        else:
            lines.insert(row, draw.choice(_TOKENS).encode() + b": " + draw.choice(_TOKENS).encode())
        how.append(f"{action} in line {row}")
        if not lines:
            lines = [b""]
    return Mutant(b"\n".join(lines) + content[length:], "header: " + ", ".join(how))


_VALUES = (None, True, False, 0, -1, 1, 2, 0.5, 1e-300, 1e300, 2**31, 2**62, -(2**63), 10**25, "", "x", "0", "../x",
           "\x1b[2J\x07", "\u202egnp", "\ud800", "x" * 10_000, [], {}, [[]], [None], [1, 2, 3], {"a": 1}, [0.5] * 6,
           [0] * 1000, list(range(20)))  # fmt: skip


def _places(node: Any, holder: Any, key: Any) -> list[tuple[Any, Any]]:
    """Every entry of a document as its holder and key; of long lists the first entries."""
    found = [(holder, key)]
    if isinstance(node, dict):
        for name in node:
            found += _places(node[name], node, name)
    elif isinstance(node, list):
        for index in range(min(len(node), 40)):
            found += _places(node[index], node, index)
    return found


def mutate_json(content: bytes, draw: random.Random) -> Mutant:
    """Change entries of a JSON document, or its text."""
    if draw.random() < 0.25:
        return _mutate_json_text(content, draw)
    root = {"": json.loads(content)}
    how = []
    for _ in range(draw.choice((1, 1, 2, 3))):
        holder, key = draw.choice(_places(root[""], root, ""))
        action = draw.choice(("value", "value", "value", "remove", "double", "type", "extra"))
        if action == "value":
            holder[key] = copy.deepcopy(draw.choice(_VALUES))
        elif action == "remove" and holder is not root:
            del holder[key]
        elif action == "double" and isinstance(holder, list):
            holder.insert(key, copy.deepcopy(holder[key]))
        elif action == "type":
            holder[key] = [holder[key]] if draw.random() < 0.5 else str(holder[key])
        elif isinstance(holder[key], dict):
            holder[key][draw.choice(("x", "0", "version", "", "ignore"))] = copy.deepcopy(draw.choice(_VALUES))
        how.append(f"{action} of {key!r}")
    return Mutant(json.dumps(root[""]).encode(), "JSON: " + ", ".join(how)[:100])


def _mutate_json_text(content: bytes, draw: random.Random) -> Mutant:
    action = draw.choice(("bytes", "bytes", "twice", "nan", "deep", "many", "wide", "utf-16", "mark"))
    if action == "twice" and content.startswith(b"{") and b":" in content:
        first = content[1 : content.index(b":")].strip()
        return Mutant(b"{" + first + b": 1, " + content[1:], "a key twice")
    if action == "nan":
        return Mutant(content.replace(b": 1", b": NaN", 1), "NaN")
    if action == "deep":
        return Mutant(b"[" * 100_000 + content, "100 000 brackets")
    if action == "many" and content.startswith(b"{"):
        entries = ",".join(f'"k{i}":{i}' for i in range(200_000))
        return Mutant(b"{" + entries.encode() + b"," + content[1:], "200 000 entries")
    if action == "wide":
        return Mutant(b" " * 5_000_000 + content, "5 MB of spaces")
    if action == "utf-16":
        return Mutant(content.decode("utf-8", "replace").encode("utf-16"), "UTF-16")
    if action == "mark":
        return Mutant(b"\xef\xbb\xbf" + content, "byte order mark")
    return mutate_bytes(content, draw)


def mutate_table(content: bytes, draw: random.Random) -> Mutant:
    """Change cells, columns and rows of a CSV table."""
    if draw.random() < 0.25:
        return mutate_bytes(content, draw)
    rows = [line.split(",") for line in content.decode("utf-8").splitlines()]
    row = draw.randrange(len(rows))
    action = draw.choice(("cell", "cell", "cell", "row", "column", "double", "quote", "short"))
    column = draw.randrange(len(rows[row])) if rows[row] else 0
    if action == "cell" and rows[row]:
        rows[row][column] = draw.choice(("", "nan", "inf", "-1", "1e400", "x", "99999999999999999999", '"', "\x1b[2J"))
    elif action == "row":
        del rows[row]
    elif action == "column":
        for line in rows:
            del line[column : column + 1]
    elif action == "double":
        rows.insert(row, list(rows[row]))
    elif action == "quote":
        rows[row] = ['"' + ",".join(rows[row])]
    else:
        del rows[row][column:]
    return Mutant("\n".join(",".join(line) for line in rows).encode() + b"\n", f"table: {action} in row {row}")


_ELEMENTS: Final[dict[str, tuple[Any, ...]]] = {
    "Rows": (0, 1, 15, 17, 65535),
    "Columns": (0, 1, 15, 17, 65535),
    "BitsAllocated": (1, 8, 12, 32, 64),
    "BitsStored": (1, 8, 32),
    "HighBit": (0, 31),
    "PixelRepresentation": (0, 1, 2),
    "SamplesPerPixel": (0, 3),
    "NumberOfFrames": (0, 2, 10**9),
    "PhotometricInterpretation": ("RGB", "MONOCHROME1", "", "X"),
    "RescaleSlope": (0, 1e300, -1, 0.001),
    "RescaleIntercept": (-1e300, 0.5),
    "PixelSpacing": ([0, 0], [1e9, 1e-9], [1], [-1, 1]),
    "SliceThickness": (0, -1, 1e9),
    "ImagePositionPatient": ([0, 0, 0], [0, 0, 1e9], [1], [0, 5, 2]),
    "ImageOrientationPatient": ([0, 0, 0, 0, 0, 0], [1, 0, 0, 1, 0, 0], [1, 0, 0], [0.9, 0.1, 0, 0, 1, 0]),
    "InstanceNumber": (0, 1, -1, 2147483647),
    "SeriesInstanceUID": ("1.2.3", "", "1.2.3.4.5.6"),
    "FrameOfReferenceUID": ("1.2.9",),
    "SOPClassUID": ("1.2.840.10008.5.1.4.1.1.88.11", "", "1.2"),
    "SOPInstanceUID": ("1.2.3.4.5.1", ""),
    "Modality": ("", "SR", "SEG", "RTSTRUCT"),
    "ImageType": (["DERIVED", "SECONDARY"], ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "SpecificCharacterSet": ("ISO_IR 192", "nonsense"),
    "SeriesDescription": ("\x1b[2J", "x" * 5000),
}


def mutate_dicom(content: bytes, draw: random.Random) -> Mutant:
    """Change elements of a DICOM file, or its bytes."""
    kind = draw.random()
    if kind < 0.25:
        return mutate_bytes(content, draw, 0, draw.choice((132, 600, len(content))))
    if kind < 0.4:
        return mutate_bytes(content, draw)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(content))
        name = draw.choice(sorted(_ELEMENTS))
        action = draw.choice(("value", "value", "remove", "pixels", "syntax"))
        try:
            if action == "value":
                setattr(dataset, name, draw.choice(_ELEMENTS[name]))
            elif action == "remove" and name in dataset:
                del dataset[name]
            elif action == "pixels":
                data = dataset.PixelData
                dataset.PixelData = draw.choice((data[: len(data) // 2], b"", data + data, data[:-2]))
            elif action == "syntax":
                dataset.file_meta.TransferSyntaxUID = draw.choice(
                    ("1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90",
                     "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99", "1.2.3")
                )  # fmt: skip
            target = io.BytesIO()
            dataset.save_as(target, enforce_file_format=False)
        except Exception:  # pydicom does not write everything
            return mutate_bytes(content, draw)
    return Mutant(target.getvalue(), f"DICOM: {action} of {name}")


_NAMES = ("../evil", "/tmp/evil", "fold_0\\evil", "fold_0/../../evil", "C:evil", "fold_0/plans.json", "", "a\0b",
          "\ud83d", "PLANS.JSON", "x" * 300)  # fmt: skip


def mutate_zip(content: bytes, draw: random.Random, within: Callable[[str, bytes], Mutant]) -> Mutant:
    """Change bytes of a zip file, or the content, the name or the number of one of its members.

    Parameters
    ----------
    content : bytes
    draw : Random
    within : callable
        Takes the name and the content of a member and returns a mutant of the content.
    """
    if draw.random() < 0.4:
        return mutate_bytes(content, draw)
    action = draw.choice(("content", "content", "content", "name", "remove", "double", "extra"))
    with zipfile.ZipFile(io.BytesIO(content)) as source:
        members = [(info.filename, source.read(info)) for info in source.infolist()]
    index = draw.randrange(len(members))
    name, data = members[index]
    if action == "content":
        members[index] = (name, within(name, data).content)
    elif action == "name":
        members[index] = (draw.choice(_NAMES), data)
    elif action == "remove":
        del members[index]
    elif action == "double":
        members.append(members[index])
    else:
        members.append((draw.choice(_NAMES), data))
    target = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")
        for member, data in members:
            info = zipfile.ZipInfo("placeholder")
            info.filename = member.encode("utf-8", "replace").decode("utf-8")
            info.compress_type = draw.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED))
            archive.writestr(info, data)
    return Mutant(target.getvalue(), f"zip: {action} of {name}")
