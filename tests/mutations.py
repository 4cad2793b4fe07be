"""Mutations of a file that know how it is built, so that the damage reaches behind the checks of the outer layers.

A file is taken apart into a tree (archives, JSON, pickles, numbers, plain bytes); one leaf of it is damaged, and the
rest is put around it again with sizes and checksums that are right.
"""

import gzip
import io
import itertools
import pickletools
import random
import re
import struct
import tarfile
import zipfile

from builders import tar_file, zip_file
from fastload.formats.torch import vocabulary
from fastload.formats.torch.values import MAKERS
from pickles import OPCODES

NUMBERS = [
    *(0, 1, 2, 3, 7, 8, 63, 64, 65, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**32),
    *(2**53, 2**60, 2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1),
]
JSON = [
    *(b"0", b"-1", b"2.0", b"1e9", b"1e999", b"18446744073709551615", b"9223372036854775808", b"null", b"true"),
    *(b'""', b"[]", b"{}", b'"F4"', b'"\\ud800"', b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b"NaN", b"[[[[["),
]
PICKLE = [
    *OPCODES.values(),
    b"K\xff",
    b"J\xff\xff\xff\xff",
    b"X\xff\xff\xff\xff",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"\x8a\x09\0\0\0\0\0\0\0\0\1",
    b"\x8a\0",
    b"G\x7f\xf0\0\0\0\0\0\0",
    b"cos\nsystem\n",
    b"h\0",
    b"h\1",
    b"h\5",
    b"N",
    b")",
    b"]",
    b"}",
    b"\x89",
    b"K\0",
    b"K\1",
    b"K\2",
    b"X\0\0\0\0",
    b"X\1\0\0\0w",
    b"0",
    b"2",
]
KNOWN = [(row[0] or "torch", row[1]) for row in vocabulary.GLOBALS if row[2] not in ("storage", "dtype")]
KNOWN += [*MAKERS, ("torch", "FloatStorage"), ("torch.storage", "UntypedStorage"), ("torch", "float32")]
GLOBALS = [f"c{module}\n{name}\n".encode() for module, name in KNOWN]
NUMBER_OPCODES = ("BININT", "BININT1", "BININT2", "INT", "LONG", "LONG1")
GLOBAL_OPCODES = ("GLOBAL", "STACK_GLOBAL")
PICKLE_MARK = re.compile(rb"\x80[\x02-\x05]")
JSON_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?\d+|[\[\]{},:]')


def damaged(chance, raw, tokens=()):
    """*raw* with one to four small damages that know nothing."""
    raw = bytearray(raw)
    for _ in range(chance.choice([1, 1, 1, 2, 4])):
        at = chance.randrange(len(raw) + 1)
        length = min(len(raw) - at, chance.choice([1, 1, 2, 4, 8, 32]))
        kind = chance.randrange(8)
        if kind == 0 and length:
            raw[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            raw[at : at + 1] = bytes([chance.randrange(256)])
        elif kind == 2:
            code = chance.choice("HIQ")
            number = chance.choice([*NUMBERS, len(raw), len(raw) - at]) & (256 ** struct.calcsize("<" + code) - 1)
            raw[at : at + struct.calcsize("<" + code)] = struct.pack("<" + code, number)
        elif kind == 3:
            del raw[at : at + length]
        elif kind == 4:
            raw[at:at] = raw[at : at + length]
        elif kind == 5:
            other = chance.randrange(len(raw) + 1)
            raw[other : other + length] = raw[at : at + length]
        elif kind == 6 and tokens:
            raw[at : at + chance.choice([0, 1, length])] = chance.choice(tokens)
        else:
            del raw[chance.randrange(at, len(raw) + 1) :]
    return bytes(raw)


class Bytes:
    """Anything without a structure."""

    def __init__(self, raw):
        self.raw = raw
        self.weight = 1

    def damaged(self, chance):
        """The bytes, with damage."""
        return damaged(chance, self.raw)


class Json(Bytes):
    """JSON, and whatever else is made of words, numbers and brackets."""

    def __init__(self, raw):
        super().__init__(raw)
        self.tokens = [match.span() for match in JSON_TOKEN.finditer(raw)]
        self.weight = 8

    def damaged(self, chance):
        """The text with one token changed, or with plain damage."""
        if not self.tokens or chance.random() < 0.2:
            return damaged(chance, self.raw, JSON)
        start, end = chance.choice(self.tokens)
        token = self.raw[start:end]
        other = slice(*chance.choice(self.tokens))
        by = [chance.choice(JSON), b"", token * 2, self.raw[other], str(chance.choice(NUMBERS)).encode(), token[::-1]]
        return self.raw[:start] + chance.choice(by) + self.raw[end:]


class PickleStream(Bytes):
    """A pickle, cut into its opcodes."""

    def __init__(self, raw, cuts):
        super().__init__(raw)
        self.opcodes = [(name, raw[start:end]) for (name, start), (_, end) in itertools.pairwise(cuts)]
        self.weight = 12

    def damaged(self, chance):
        """The stream with a few opcodes left out, doubled, exchanged or replaced by others of their kind."""
        if chance.random() < 0.15:
            return damaged(chance, self.raw, PICKLE)
        found = [stream for _, stream in self.opcodes]
        for _ in range(chance.choice([1, 1, 1, 2, 3, 6])):
            at, kind = chance.randrange(len(found)), chance.randrange(8)
            if kind == 0:
                found[at] = b""
            elif kind == 1:
                found[at] *= 2
            elif kind == 2:
                other = chance.randrange(len(found))
                found[at], found[other] = found[other], found[at]
            elif kind == 3:
                found[at] = chance.choice(found)
            elif kind == 4:
                found[at] = chance.choice(PICKLE)
            elif kind == 5:
                found[at] += chance.choice([chance.choice(PICKLE), chance.choice(GLOBALS), chance.choice(found)])
            else:
                self._replace_one_of_a_kind(chance, found, NUMBER_OPCODES if kind == 6 else GLOBAL_OPCODES)
        return b"".join(found)

    def _replace_one_of_a_kind(self, chance, found, kinds):
        places = [place for place, (name, _) in enumerate(self.opcodes) if name in kinds]
        if not places:
            found[-1] = b""
        elif kinds is NUMBER_OPCODES:
            number = chance.choice([*NUMBERS, -1, -2, -8, chance.randrange(16)])
            raw = number.to_bytes(9, "little", signed=True)
            found[chance.choice(places)] = b"\x8a" + bytes([len(raw)]) + raw
        else:
            place = chance.choice(places)
            text = self.opcodes[place][0] == "STACK_GLOBAL"
            found[place] = (b"00" if text else b"") + chance.choice(GLOBALS)


class Several:
    """Pieces one after the other; of them one is damaged, or all together."""

    def __init__(self, pieces):
        self.pieces = pieces
        self.weights = [piece.weight for piece in pieces]
        self.raw = b"".join(piece.raw for piece in pieces)
        self.weight = max(self.weights)

    def damaged(self, chance):
        """The pieces with one of them damaged."""
        at = chance.choices(range(len(self.pieces)), self.weights)[0]
        return b"".join(
            piece.damaged(chance) if number == at else piece.raw for number, piece in enumerate(self.pieces)
        )


class Named:
    """An archive of named members, of which one is damaged, or left out, doubled, or called otherwise."""

    def __init__(self, raw, members, write):
        self.raw = raw
        self.members = [(name, taken_apart(data)) for name, data in members]
        self.write = write
        self.weights = [piece.weight for _, piece in self.members]
        self.weight = 12

    def damaged(self, chance):
        """The archive with one member damaged, or not what it was called."""
        if chance.random() < 0.1:
            return damaged(chance, self.raw)
        members = [(name, piece.raw) for name, piece in self.members]
        at = chance.choices(range(len(members)), self.weights)[0]
        kind, other = chance.randrange(20), chance.randrange(len(members))
        if kind == 0:
            del members[other]
        elif kind == 1:
            members.append(members[other])
        elif kind == 2:
            members[at], members[other] = (members[at][0], members[other][1]), (members[other][0], members[at][1])
        elif kind == 3:
            name = members[other][0]
            cut = chance.randrange(len(name) + 1)
            members[other] = (
                name[:cut] + chance.choice(["", "/", ".", "0", "../", "é"]) + name[cut + 1 :],
                members[other][1],
            )
        else:
            members[at] = members[at][0], self.members[at][1].damaged(chance)
        return self.write(members)


class Gzip:
    """A file in a gzip file."""

    def __init__(self, raw):
        self.raw = raw
        self.inner = taken_apart(gzip.decompress(raw))
        self.weight = 12

    def damaged(self, chance):
        """The file around a damaged one, or damaged itself."""
        if chance.random() < 0.2:
            return damaged(chance, self.raw)
        return gzip.compress(self.inner.damaged(chance), compresslevel=1, mtime=0)


class SafeTensors:
    """A header with its length before it, and data behind it."""

    def __init__(self, raw):
        (length,) = struct.unpack("<Q", raw[:8])
        self.raw = raw
        self.header, self.data = Json(raw[8 : 8 + length]), raw[8 + length :]
        self.weight = 8

    def damaged(self, chance):
        """A damaged header in a sound frame, or a damaged frame."""
        if chance.random() < 0.3:
            return damaged(chance, self.raw)
        header = self.header.damaged(chance)
        return struct.pack("<Q", len(header)) + header + self.data


def taken_apart(raw):
    """The tree of *raw*, told from its first bytes."""
    if raw[:4] == b"PK\3\4":
        return Named(raw, members_of(raw), write_zip)
    if raw[:3] == b"\x1f\x8b\x08":
        return Gzip(raw)
    if raw[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            return Named(raw, [(info.name, archive.extractfile(info).read()) for info in archive], write_tar)
    if raw[8:9] == b"{" and raw[:1] != b"{":
        return SafeTensors(raw)
    if raw[:1] in (b"{", b"["):
        return Json(raw)
    return with_pickles(raw)


def members_of(raw):
    """The (name, data) of a zip archive's records."""
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return [(info.filename, archive.read(info)) for info in archive.infolist()]


def write_zip(members):
    return zip_file(members, align=1, crc=False, descriptors=False, zip64="")


def write_tar(members):
    return tar_file(members)[: 1024 * (1 + sum(1 + len(data) // 512 for _, data in members))]


def with_pickles(raw):
    """The pickles in *raw*, of protocol 0 and 1 only at its very start, and what lies between them."""
    pieces, at = [], 0
    found = cut(raw, 0)
    while True:
        if found:
            pieces.append(PickleStream(raw[at : found[-1][1]], [(name, place - at) for name, place in found]))
            at = found[-1][1]
        match = PICKLE_MARK.search(raw, at)
        while match and not (found := cut(raw, match.start())):
            match = PICKLE_MARK.search(raw, match.start() + 1)
        if match is None:
            break
        if match.start() > at:
            pieces.append(Bytes(raw[at : match.start()]))
            at = match.start()
    if at < len(raw) or not pieces:
        text = raw[at:]
        pieces.append(Json(text) if text[:1] == b"{" else Bytes(text))
    return pieces[0] if len(pieces) == 1 else Several(pieces)


def cut(raw, start):
    """(opcode, place) of each opcode of the pickle at *start*, and its end; nothing if there is none."""
    stream = io.BytesIO(raw)
    stream.seek(start)
    try:
        found = [(opcode.name, place) for opcode, _, place in pickletools.genops(stream)]
    except (ValueError, KeyError, IndexError, OverflowError):
        return []
    return [*found, ("", stream.tell())] if len(found) > 1 else []


class Layout:
    """A file, or a folder of files, to be damaged."""

    def __init__(self, name, whole):
        self.name = name
        self.files = {"": whole} if isinstance(whole, bytes) else whole
        self.trees = {file: taken_apart(raw) for file, raw in self.files.items()}
        self.is_folder = not isinstance(whole, bytes)

    def mutation(self, number):
        """The name of one of its files (empty, unless it is a folder), and that file damaged: mutation *number*."""
        chance = random.Random(f"{self.name} {number}")
        file = chance.choice(list(self.files))
        if chance.random() < 0.3:
            return file, damaged(chance, self.files[file])
        return file, self.trees[file].damaged(chance)
