"""Tiny ELF programs, field by field, for the tests of models in executables. None of them can run."""

import struct

HEADER = "<16sHHIQQQIHHHHHH"
SEGMENT = "<IIQQQQQQ"
SECTION = "<IIQQQQIIQQ"
IDENTITY = b"\x7fELF\2\1\1".ljust(16, b"\0")
TEXT = bytes(range(256)) * 4  # what is loaded
PAYLOAD = b"payload of a tool" * 10


def section(name=0, kind=1, flags=0, offset=0, size=0, alignment=1):
    return [name, kind, flags, 0, offset, size, 0, 0, alignment, 0]


def program(*, sections=(), change=None, header=None, segment=None, tail=b"", kind=3):
    """A program that loads `TEXT`, and has a section `pydata` behind it.

    Parameters
    ----------
    sections : sequence of list
        More of them, by the numbers in their entries.
    change : dict of (section, field) to number
        What is otherwise in the table: sections are 1 .text, 2 pydata, 3 .shstrtab.
    header, segment : dict of int to number
        What is otherwise in the header, or in the only segment, by the number of the field.
    tail : bytes
        Behind everything.
    """
    names = b"\0.text\0pydata\0.shstrtab\0.bss\0"
    begin = 64 + 56
    pydata = begin + len(TEXT)
    strings = pydata + len(PAYLOAD)
    table = strings + len(names) + 3
    entries = [
        section(kind=0, alignment=0),
        section(1, 1, 2, begin, len(TEXT), 16),
        section(7, 1, 0, pydata, len(PAYLOAD)),
        section(14, 3, 0, strings, len(names)),
        section(24, 8, 3, strings, 1 << 40),  # takes no room in the file
        *map(list, sections),
    ]
    for (number, field), value in (change or {}).items():
        entries[number][field] = value
    head = [IDENTITY, kind, 62, 1, 0x1000, 64, table, 0, 64, 56, 1, 64, len(entries), 3]
    loaded = [1, 5, 0, 0, 0, begin + len(TEXT), begin + len(TEXT), 4096]
    for fields, changed in ((head, header), (loaded, segment)):
        for field, value in (changed or {}).items():
            fields[field] = value
    packed = b"".join(struct.pack(SECTION, *entry) for entry in entries)
    return (
        struct.pack(HEADER, *head) + struct.pack(SEGMENT, *loaded) + TEXT + PAYLOAD + names + bytes(3) + packed + tail
    )


def program_with_model(size, content):
    """A program with a section `.fastload.weights` that is said to have *size* bytes, and begins with *content*."""
    names = b"\0.text\0pydata\0.shstrtab\0.fastload.weights\0"
    end = len(program(sections=[section()]))
    ours = section(24, 1, 0, end + len(names), size, 4096)
    whole = program(sections=[ours], change={(3, 4): end, (3, 5): len(names), (4, 0): 0})
    return whole + names + content.ljust(5000, b"\0")


def read_sections(data):
    """(offset, content) of the sections of a program that are in the file, by name."""
    fields = struct.unpack_from(HEADER, data)
    offset, count, strings = fields[6], fields[12], fields[13]
    entries = [struct.unpack_from(SECTION, data, offset + 64 * number) for number in range(count)]
    names = data[entries[strings][4] :]
    return {
        names[entry[0] :].partition(b"\0")[0].decode(): (entry[4], data[entry[4] : entry[4] + entry[5]])
        for entry in entries
        if entry[1] not in (0, 8)
    }
