"""Models in executables: found and mapped in place, replaced and removed, and the program itself untouched."""

import os
import shutil
import stat
import struct
import subprocess
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest

import fastload
from fastload import (
    FastloadError,
    FormatError,
    MemberNotFoundError,
    SaveError,
    TruncatedError,
    UnsupportedError,
    elf,
    resource,
)
from fastload.source import Source
from programs import PAYLOAD, TEXT, program, program_with_model, read_sections, section
from reading import mappings_of

NEVER = 1 << 62


@pytest.fixture
def models(tmp_path):
    """Two models, of which the values differ."""
    for number in (1, 2):
        fastload.save({"w": np.full(3000 * number, number, "f4")}, tmp_path / f"{number}.safetensors")
    return [tmp_path / f"{number}.safetensors" for number in (1, 2)]


@pytest.fixture
def app(tmp_path):
    (tmp_path / "app").write_bytes(program())
    (tmp_path / "app").chmod(0o750)
    return tmp_path / "app"


def values(app, name="weights", **options):
    with fastload.open_embedded(name, path=app, **options) as checkpoint:
        return set(checkpoint["w"].tolist())


def test_a_model_in_a_program_is_mapped_in_place(app, models):
    report = fastload.embed_into(models[0], app)

    checkpoint = fastload.open_embedded(path=app, verify=True, allow_copy=False)

    assert report == (str(app), "weights", models[0].stat().st_size)
    assert checkpoint.source == ("embedded", str(app), "weights")
    assert checkpoint.entry("w").zero_copy
    assert mappings_of(checkpoint["w"]) == {str(app)}
    assert checkpoint["w"].tolist() == [1] * 3000


def test_a_model_in_a_program_is_a_member_of_it(app, models):
    fastload.embed_into(models[0], app)

    checkpoint = fastload.open(app, member="weights")

    assert checkpoint.source == ("embedded", str(app), "weights")
    assert checkpoint["w"][0] == 1


def test_what_a_program_loads_stays_where_it_is_and_tools_find_their_section_behind_the_model(app, models):
    before = app.read_bytes()

    fastload.embed_into(models[0], app)

    after, sections = app.read_bytes(), read_sections(app.read_bytes())
    assert after[64 : 120 + len(TEXT)] == before[64 : 120 + len(TEXT)]
    assert [stat.S_IMODE(app.stat().st_mode), after[:40], after[48:60]] == [0o750, before[:40], before[48:60]]
    assert sections[".text"] == (120, TEXT)
    assert sections["pydata"][1] == PAYLOAD
    offset, content = sections[".fastload.weights"]
    assert offset % 4096 == 0
    assert content[4096:] == models[0].read_bytes()
    assert offset < sections["pydata"][0] < sections[".shstrtab"][0]


def test_a_model_is_replaced_by_one_of_the_same_name(app, models):
    fastload.embed_into(models[1], app)
    fastload.embed_into(models[0], app)
    once = app.stat().st_size

    fastload.embed_into(models[1], app)
    fastload.embed_into(models[0], app)

    assert values(app, verify=True) == {1}
    assert app.stat().st_size == once
    assert len(fastload.list_embedded(app)) == 1


def test_a_program_has_several_models_and_each_can_be_removed(app, models):
    fastload.embed_into(models[0], app, "first")
    fastload.embed_into(models[1], app, "second.v2")

    assert [(found.name, found.nbytes) for found in fastload.list_embedded(app)] == [
        ("first", models[0].stat().st_size),
        ("second.v2", models[1].stat().st_size),
    ]
    assert values(app, "first", verify=True) == {1}

    fastload.remove_embedded(app, "first")

    assert values(app, "second.v2", verify=True) == {2}
    with pytest.raises(MemberNotFoundError, match=r"no embedded model 'first'; it has 'second\.v2'"):
        fastload.open_embedded("first", path=app)
    fastload.embed_into(models[0], app, "first")
    assert (values(app, "first"), values(app, "second.v2")) == ({1}, {2})


def test_a_program_is_as_it_was_when_its_only_model_is_removed(app, models):
    fastload.embed_into(models[0], app)
    fastload.remove_embedded(app)
    once = app.read_bytes()

    fastload.embed_into(models[0], app)
    fastload.remove_embedded(app)

    assert app.read_bytes() == once
    assert {name: content for name, (_, content) in read_sections(once).items() if name != ".shstrtab"} == {
        ".text": TEXT,
        "pydata": PAYLOAD,
    }
    with pytest.raises(MemberNotFoundError, match="put it there by"):
        fastload.remove_embedded(app)


def test_a_model_whose_bytes_have_changed_is_told_from_the_checksum(app, models):
    fastload.embed_into(models[0], app)
    data = bytearray(app.read_bytes())
    begin, content = read_sections(data)[".fastload.weights"]
    data[begin + len(content) - 1] ^= 1
    app.write_bytes(data)

    fastload.open_embedded(path=app)

    with pytest.raises(FormatError, match="another SHA-256"):
        fastload.open_embedded(path=app, verify=True)


def test_a_program_is_untouched_where_it_cannot_be_written(app, models, monkeypatch):
    before = app.read_bytes()
    monkeypatch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))

    with pytest.raises(SaveError, match="No space left"):
        fastload.embed_into(models[0], app)

    assert app.read_bytes() == before
    assert sorted(os.listdir(app.parent)) == ["1.safetensors", "2.safetensors", "app"]


@pytest.mark.parametrize("name", ["", "a/b", "a b", "-x", "ö", "x" * 65, "a\0"])
def test_odd_names_are_refused(app, models, name):
    with pytest.raises(ValueError, match="letters, digits"):
        fastload.embed_into(models[0], app, name)


def test_the_index_of_shards_is_not_embedded(app, tmp_path):
    (tmp_path / "index.json").write_text('{"weight_map": {"w": "1.safetensors"}}')
    fastload.save({"w": np.zeros(3)}, tmp_path / "1.safetensors")

    with pytest.raises(UnsupportedError, match="index of a sharded checkpoint"):
        fastload.embed_into(tmp_path / "index.json", app)


def test_only_checkpoints_are_embedded(app, tmp_path):
    before = app.read_bytes()
    (tmp_path / "text").write_bytes(b"no checkpoint at all, but some text of a hundred bytes" * 2)

    with pytest.raises(FormatError):
        fastload.embed_into(tmp_path / "text", app)

    assert app.read_bytes() == before


FOREIGN = {
    "script": (b"#!/bin/sh\necho\n" * 9, "no executable"),
    "windows": (b"MZ" + bytes(200), "PE .Windows. executable"),
    "macos": (bytes.fromhex("cffaedfe") + bytes(200), "Mach-O"),
    "fat macos": (bytes.fromhex("cafebabe") + bytes(200), "Mach-O"),
    "32 bits": (b"\x7fELF\1\1\1" + bytes(200), "64-bit"),
    "big-endian": (b"\x7fELF\2\2\1" + bytes(200), "64-bit"),
    "no sections": (program(header={6: 0}), "without a table of sections"),
    "object file": (program(kind=1), "no program"),
    "appended archive": (program(tail=b"PK\5\6"), "belong to no section"),
    "loaded names": (program(change={(3, 2): 2}), "loads the names"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_no_model_can_be_put_into_is_refused_and_untouched(app, models, name):
    data, message = FOREIGN[name]
    app.write_bytes(data)

    with pytest.raises(UnsupportedError, match=message) as caught:
        fastload.embed_into(models[0], app)

    assert caught.value.path == str(app)
    assert app.read_bytes() == data


HOSTILE = {
    "table beyond the end": program(header={6: NEVER}),
    "table at the very end": program(header={6: len(program()) - 64}),
    "too many sections": program(header={12: 0xFEFF}),
    "more sections than there can be": program(header={12: 0xFFFF}),
    "odd size of an entry": program(header={11: 63}),
    "names in no section": program(header={13: 9}),
    "names in the first section": program(header={13: 0}),
    "names beyond the end": program(change={(3, 4): NEVER}),
    "huge names": program(change={(3, 5): NEVER}),
    "names of no size": program(change={(3, 5): 0}),
    "names without bytes": program(change={(3, 1): 8}),
    "name outside of the names": program(change={(2, 0): 0xFFFFFFFF}),
    "section beyond the end": program(change={(2, 4): NEVER}),
    "huge section": program(change={(2, 5): NEVER}),
    "section that reaches into the loaded part": program(change={(2, 4): 100}),
    "sections that overlap": program(sections=[section(7, 1, 0, 120 + len(TEXT) + 5, 20)]),
    "section over the table": program(change={(2, 5): len(PAYLOAD) + 200}),
    "huge alignment": program(change={(2, 8): 1 << 60}),
    "odd alignment": program(change={(2, 8): 24}),
    "loaded section beyond the end": program(change={(1, 5): NEVER}),
    "segment beyond the end": program(segment={5: NEVER}),
    "segments beyond the end": program(header={5: NEVER}),
    "too many segments": program(header={10: 0xFFFF}),
    "odd size of a segment": program(header={9: 1}),
    "cut within the header": program()[:63],
    "cut within the table": program()[:-1],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_programs_that_make_no_sense_are_refused_and_untouched(app, models, name):
    app.write_bytes(HOSTILE[name])

    with pytest.raises((FormatError, UnsupportedError)):
        fastload.embed_into(models[0], app)

    assert app.read_bytes() == HOSTILE[name]


def test_every_prefix_of_a_program_is_refused(app, models):
    fastload.embed_into(models[0], app)
    whole = app.read_bytes()

    for end in [*range(1, 200), *range(200, len(whole), 997)]:
        app.write_bytes(whole[:end])
        with pytest.raises((FormatError, UnsupportedError)):
            fastload.open_embedded(path=app)


@pytest.mark.parametrize("value", [0, 1, 0x7F, 0xFF])
def test_mutations_of_a_program_are_laid_out_or_refused(value):
    start = struct.pack("<8sIIQ33s", b"fastload", 1, 4096, 904, bytes(32) + b"weights")
    whole = program_with_model(5000, start)
    for place in [*range(200), *range(len(TEXT) + 120, len(whole) - 4000)]:
        data = bytearray(whole)
        data[place] = value
        source = Source.of(bytes(data))
        with suppress(FastloadError):
            assert elf.lay_out(source, "weights", 100).size < len(whole) + (4 << 20)
        with suppress(FastloadError):
            for name in elf.list_names(source):
                assert elf.find(source, name).part.size < len(whole)


OURS = {
    "shorter than its header": (4095, b"", "shorter than its header"),
    "no mark": (5000, b"fastloaD", "lacks the mark"),
    "newer": (5000, b"fastload\2", "newer fastload"),
    "odd header": (5000, struct.pack("<8sIIQ", b"fastload", 1, 64, 904), "size"),
    "odd size": (5000, struct.pack("<8sIIQ", b"fastload", 1, 4096, NEVER), "size"),
    "no size": (4096, struct.pack("<8sIIQ", b"fastload", 1, 4096, 0), "size"),
    "other name": (5000, struct.pack("<8sIIQ33s", b"fastload", 1, 4096, 904, bytes(32) + b"w"), "another name"),
    "beyond the end": (NEVER, struct.pack("<8sIIQ", b"fastload", 1, 4096, NEVER - 4096), "another name|beyond"),
}


@pytest.mark.parametrize("name", OURS)
def test_damaged_models_are_refused(app, name):
    size, start, message = OURS[name]
    app.write_bytes(program_with_model(size, start))

    with pytest.raises((FormatError, UnsupportedError), match=message):
        fastload.open_embedded(path=app)


def test_the_running_program_is_asked_first():
    with pytest.raises((MemberNotFoundError, UnsupportedError, TruncatedError)) as caught:
        fastload.open_embedded("no.such.model")

    assert os.path.samefile(caught.value.path, os.path.realpath("/proc/self/exe"))


def test_of_one_file_that_nuitka_has_made_the_program_that_unpacked_this_one_is_asked(models, tmp_path, monkeypatch):
    outer = shutil.copy(os.path.realpath(shutil.which("sleep")), tmp_path / "outer")
    fastload.embed_into(models[0], outer)
    with subprocess.Popen([outer, "100"]) as process:
        try:
            monkeypatch.setenv("NUITKA_ONEFILE_PARENT", str(process.pid))
            with pytest.raises((MemberNotFoundError, UnsupportedError)):
                fastload.open_embedded()  # the variable alone may come from any program around
            monkeypatch.setattr(resource, "__compiled__", SimpleNamespace(onefile=True), raising=False)

            checkpoint = fastload.open_embedded()
        finally:
            process.kill()

    assert checkpoint.source == ("embedded", str(outer), "weights")
    assert set(checkpoint["w"].tolist()) == {1}
