"""`Checkpoint.globals()` names whatever a real unpickler would run, in whichever of a file's pickles it stands."""

import gzip
import io
import pickletools

import pytest

import builders
import fastload
from builders import (
    legacy_file,
    npy_file,
    script_json_file,
    smallest_dcp,
    smallest_tar,
    tar_file,
    torch_pickle,
    torch_tar_members,
    torch_zip,
    torchscript_file,
    zip_file,
)
from pickles import PersistentId, dumps

CALLED = ("os", "system")
STREAM_PICKLES = 5
EMPTY = dumps({}, 2)
MADE_OF_FILE = b"ctorch.storage\n_load_from_bytes\nB%s\x85R0"


def named(pickled, at=0):
    """The same pickle, which names `os.system` on the way and drops it."""
    return pickled[: at + 2] + b"cos\nsystem\n0" + pickled[at + 2 :]


def holding(pickled, file):
    """The same pickle, which has a file of torch within it unpickled on the way."""
    whole = len(file).to_bytes(4, "little") + file
    return pickled[:2] + MADE_OF_FILE.replace(b"%s", whole) + pickled[2:]


def starts(stream):
    """Where the pickles of a legacy stream begin."""
    file, found = io.BytesIO(stream), []
    for _ in range(STREAM_PICKLES):
        found.append(file.tell())
        for _ in pickletools.genops(file):
            pass
    return found


STREAM = legacy_file({"w": builders.tensor("float32", (2,), [1, 2])})
NESTED = [named(STREAM, at) for at in starts(STREAM)]
TWICE_NESTED = legacy_file({})
TWICE_NESTED = holding(TWICE_NESTED, NESTED[2])


def in_zip(pickled):
    return torch_zip(pickled, {})


def in_package(pickled):
    return zip_file([("p/m/m.pkl", pickled), ("p/.data/extern_modules", b""), ("p/.data/version", b"6\n")])


def in_script(pickled):
    return torchscript_file(pickled, {}, {})


def in_constants(pickled):
    return torchscript_file(EMPTY, {}, {}, constants=pickled)


def in_attributes(pickled):
    return script_json_file([], {"name": "M"}, {"attributes.pkl": pickled})


def in_array(pickled):
    return npy_file("|O", (), pickled)


def in_gzip(pickled):
    return gzip.compress(in_zip(pickled))


FORMATS = [in_zip, in_package, in_script, in_constants, in_attributes, in_array, in_gzip, bytes]


def found(file):
    return [(one.module, one.name) for one in fastload.open(file).globals()]


@pytest.mark.parametrize("section", range(STREAM_PICKLES))
def test_every_pickle_of_a_stream_is_looked_into(section):
    assert CALLED not in found(STREAM)
    assert CALLED in found(NESTED[section])
    assert fastload.open(NESTED[section])["w"].tolist() == [1, 2]


@pytest.mark.parametrize("member", ["storages", "tensors", "pickle"])
def test_every_member_of_a_tar_is_looked_into(member):
    root = dumps({"w": PersistentId("7")}, 2)
    members = torch_tar_members([(5, "FloatStorage", bytes(8))], [(7, 5, (2,), (1,), 0)], root)

    assert CALLED not in found(smallest_tar())
    assert CALLED in found(tar_file([(name, named(data) if name == member else data) for name, data in members]))


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_pickles_of_a_package_are_told_by_their_name(protocol):
    pickled = torch_pickle({"a": [1]}, protocol)[0]
    pickled = named(pickled) if protocol > 1 else b"cos\nsystem\n0" + pickled

    assert found(in_package(pickled)) == [CALLED]
    assert fastload.open(in_package(pickled)).objects == {"a": [1]}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("within", [None, *range(STREAM_PICKLES), "a file within it"])
def test_files_within_a_pickle_are_looked_into(format, within):
    inner = TWICE_NESTED if isinstance(within, str) else STREAM if within is None else NESTED[within]

    assert (CALLED in found(format(holding(EMPTY, inner)))) == (within is not None)


def test_files_within_the_metadata_of_a_folder_are_looked_into(tmp_path):
    for name, data in smallest_dcp().items():
        (tmp_path / name).write_bytes(holding(data, NESTED[3]) if name == ".metadata" else data)

    assert CALLED in found(tmp_path)


def test_files_within_files_have_an_end():
    file = STREAM
    for _ in range(20):
        file = holding(STREAM, file)

    with pytest.raises(fastload.LimitError, match="deep"):
        fastload.open(holding(EMPTY, file)).globals()
