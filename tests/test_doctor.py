"""What the doctor finds, and what it takes for wrong."""

import mmap
import zipfile

import numpy as np
import pytest

import fastload
from builders import safetensors_raw, smallest_file
from fastload import doctor
from fastload._native import KERNELS
from fastload.cli import main


def facts_of(*arguments):
    return {(fact.section, fact.name): fact for fact in doctor.examine(*arguments)}


def test_a_sound_machine_has_nothing_wrong():
    facts = facts_of()

    assert {fact.state for fact in facts.values()} <= {"fine", "note"}
    assert facts["core", "self-test"].value == "passed"
    assert facts["core", "vectors in use"].value == KERNELS[0]
    assert facts["machine", "page size"].value == mmap.PAGESIZE
    assert facts["packages", "numpy"].value == np.__version__


def test_a_core_that_casts_wrongly_is_wrong(monkeypatch):
    right = doctor.convert

    def wrong(data, source, result, target, kernel):
        right(data, source, result, target, kernel)
        if kernel == KERNELS[0]:
            memoryview(result).cast("B")[0] ^= 1

    monkeypatch.setattr(doctor, "KERNELS", (KERNELS[0], KERNELS[-1]))
    monkeypatch.setattr(doctor, "convert", wrong)
    if len(KERNELS) == 1:
        pytest.skip("this processor has one kernel, which has none to be compared with")

    fact = facts_of()["core", "self-test"]

    assert fact.state == "wrong" and KERNELS[0] in fact.value and "install" in fact.advice


@pytest.mark.parametrize("shift", [0, 1])
def test_the_alignment_of_a_file_is_counted(shift, tmp_path):
    header = '{"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    header += " " * (-(len(header) + 8) % 64 + shift)
    (tmp_path / "m.safetensors").write_bytes(safetensors_raw(header, bytes(8)))

    facts = facts_of(tmp_path / "m.safetensors")

    off = facts["file", "not aligned to their elements"]
    assert facts["file", "aligned to 64 bytes"].value == 1 - shift
    assert (off.value, off.state) == (shift, "note" if shift else "fine")


def test_a_file_is_told_of(tmp_path):
    fastload.save({"w": np.zeros(300, "f4")}, tmp_path / "m.npz")

    facts = facts_of(tmp_path / "m.npz")

    assert facts["file", "format"].value == "npz" and facts["file", "tensors"].value == 1
    assert facts["file", "tensors that are no views"].value == 0
    assert facts["file system", 'io="auto"'].value in ("mmap", "read")


SYSTEMS = [(0x6969, "nfs", "read"), (0xEF53, "ext4", "mmap"), (0x77, "0x77", "mmap")]


@pytest.mark.parametrize(("magic", "kind", "io"), SYSTEMS)
def test_the_file_system_decides_how_it_is_read(magic, kind, io, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "filesystem_type", lambda descriptor: magic)

    facts = facts_of(tmp_path)

    assert (facts["file system", "kind"].value, facts["file system", 'io="auto"'].value) == (kind, io)


def test_a_folder_without_a_checkpoint_is_a_note(tmp_path):
    fact = facts_of(tmp_path)["file", "checkpoint"]

    assert fact.state == "note" and "folder" in fact.advice


def test_a_member_is_looked_at_in_its_archive(tmp_path, capsys):
    path = str(tmp_path / "m.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m.safetensors", smallest_file("safetensors"))

    facts = facts_of(path, "m.safetensors")

    assert facts["file", "format"].value == "safetensors" and facts["file", "tensors"].value == 1
    assert main(["doctor", path, "--member", "m.safetensors"]) == 0
    assert main(["doctor", path, "--member", "no"]) == 3
    assert main(["doctor", str(tmp_path), "--member", "m.safetensors"]) == 3
    assert main(["doctor", "--member", "m.safetensors"]) == 2
    assert capsys.readouterr().err.endswith("fastload: --member goes with PATH; see fastload doctor --help\n")
