"""Bombs for what is made of parts: arrays, modules, quantised and sparse tensors, blobs, references, keys.

Each is small, and would cost its size times its number of references if each reference were paid for anew.
"""

import struct

import pytest

from bombs import DEEP_LIST, LISTS, answer
from builders import (
    FOLDERS,
    LEGACY_MAGIC,
    tar_file,
    tensor,
    torch_file,
    torch_file_with,
    torch_pickle,
    torch_tar_members,
    torch_zip,
    torchscript_file,
    zip_file,
)
from pickles import OPCODES, Global, PersistentId, Pickle, assemble, dumps

ANSWERS = ("True", "False")
MANY = 100_000
RECONSTRUCT = b"cnumpy._core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\1b\x87R"
DTYPE = b"cnumpy\ndtype\n"
F4 = DTYPE + b"U\x02f4\x89\x88\x87R(K\3U\1<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"


def get(number):
    return OPCODES["LONG_BINGET"] + struct.pack("<I", number)


def put(number):
    return OPCODES["LONG_BINPUT"] + struct.pack("<I", number)


def array(dtype, data=b"C\x04\0\0\0\0"):
    """A float32 array of one element, whose dtype and bytes are what those opcodes leave."""
    return RECONSTRUCT + b"(K\1K\1\x85" + dtype + b"\x89" + data + b"tb"


def listed(items):
    return b"](" + b"".join(items) + b"e"


def stored(value):
    """What the opcodes leave, put to memo 900 and dropped, for others to get."""
    return value + put(900) + b"0"


def objects(depth):
    """Arrays of one object without dimensions, within each other."""
    head = RECONSTRUCT + b"(K\1)" + DTYPE + b"U\2O8\x89\x88\x87R\x89]"
    return head * depth + b"N" + b"atb" * depth


def modules(depth):
    """Modules, each the only child of another."""
    begin = b"cm\nM\n)\x81}(X\x0b\0\0\0_parameters}X\x08\0\0\0_buffers}X\x08\0\0\0_modules}X\1\0\0\0a"
    return begin * depth + b"N" + b"sub" * depth


def persistent_names(count):
    """A module with as many buffers as names of buffers that are not persistent, none of them alike."""
    buffer = torch_pickle(tensor("float32", (2,), [1, 2]))[0][2:-1]
    text = lambda word: b"X" + struct.pack("<I", len(word)) + word  # noqa: E731
    buffers = b"".join(text(b"b%d" % n) + get(901) for n in range(count))
    names = b"".join(text(b"n%d" % n) for n in range(count))
    inner = b"X\x0b\0\0\0_parameters}X\x08\0\0\0_modules}X\x08\0\0\0_buffers}(" + buffers + b"u"
    inner += text(b"_non_persistent_buffers_set") + b"c__builtin__\nset\n](" + names + b"e\x85R"
    return buffer + put(901) + b"0cm\nM\n)\x81}(" + inner + b"ub"


BIG = listed(b"K\1" for _ in range(1_000_000))
LONG_TEXT = b"X" + struct.pack("<I", 1 << 20) + b"a" * (1 << 20)
FRAGMENTS = {
    "modules 50,000 deep": modules(50_000),
    "objects 10,000 deep": objects(10_000),
    "names times buffers": persistent_names(20_000),
    "one dtype for all arrays": stored(F4) + listed(array(get(900)) for _ in range(MANY)),
    "a dtype for each array": listed(array(F4) for _ in range(20_000)),
    "dtypes that share a long list": stored(BIG) + listed(array(DTYPE + get(900) + b"\x85R") for _ in range(1000)),
    "dtypes that share a long state": stored(BIG)
    + listed(array(DTYPE + b"U\2f4\x85R(K\3U\1<NN" + get(900) + b"K\0K\0K\0tb") for _ in range(1000)),
    "dtypes that share a long text": stored(LONG_TEXT)
    + listed(array(DTYPE + get(900) + b"\x85R") for _ in range(MANY)),
    "a dtype of doubled lists": array(DTYPE + LISTS + b"\x85R"),
    "a dtype of a deep list": array(DTYPE + DEEP_LIST + b"\x85R"),
    "a dtype that is no object": array(b"X\4\0\0\0abcd"),
    "a dtype made by no class": array(b"K\7U\2f4\x85R"),
    "bytes that share a long text": stored(LONG_TEXT)
    + listed(array(F4, b"c_codecs\nencode\n" + get(900) + b"U\x06latin1\x86R") for _ in range(2000)),
    "wrappers": b"ctorch._utils\n_rebuild_parameter\n" * MANY + b"N" + b"\x88N\x87R" * MANY,
    "types within types": b"ctorch._tensor\n_rebuild_from_type_v2\n(" * MANY + b"N" + b"NNNtR" * MANY,
    "sparse parts within themselves": b"ctorch._utils\n_rebuild_sparse_tensor\n(ctorch.serialization\n_get_layout\n"
    + b"X\x10\0\0\0torch.sparse_coo\x85R]("
    + put(950)
    + get(950)
    + get(950)
    + b"et"
    + b"\x86R",
}


@pytest.mark.parametrize("name", FRAGMENTS)
def test_a_bomb_beside_a_tensor(name, tmp_path):
    assert answer(torch_file_with(FRAGMENTS[name]), tmp_path / "bomb") in ANSWERS


@pytest.mark.parametrize("count", [1, 20_000])
def test_whole_files_within_the_pickle_that_share_their_bytes(count, tmp_path):
    inner = torch_file({"w": tensor("float32", (2,), [1, 2]), "v": b"a" * (1 << 20)}, align=1)
    blob = b"B" + struct.pack("<I", len(inner)) + inner
    root = stored(blob) + listed(b"ctorch.storage\n_load_from_bytes\n" + get(900) + b"\x85R" for _ in range(count))

    assert answer(b"\x80\4" + root + b".", tmp_path / "bomb") in ANSWERS


def test_very_many_keys_of_storages(tmp_path):
    head = b"".join(dumps(value, 2) for value in (LEGACY_MAGIC, 1001, {"little_endian": True}, {}))
    keys = dumps([str(number) for number in range(1_000_000)], 2)

    assert answer(head + keys, tmp_path / "bomb") in ANSWERS


def test_a_storage_named_by_a_huge_text(tmp_path):
    texts = [b"('storage', " + b"\\'" * (1 << 20), b"('storage', <class 'torch." + b"a." * (1 << 20) + b"'>, '0'"]
    for text in texts:
        file = b"\x80\2X" + struct.pack("<I", len(text)) + text + b"Q."

        assert answer(torch_zip(file), tmp_path / "bomb") in ANSWERS


def test_very_many_references_to_one_script(tmp_path):
    script, records = torch_pickle(tensor("float32", (2,), [1, 2]))
    module = Pickle(2).raw(b"c__torch__\nM\n").op("EMPTY_TUPLE").op("NEWOBJ").op("EMPTY_DICT")
    names = [f"w{number}" for number in range(2000)]
    module = module.raw(script[2:-1] + put(900) + b"0")
    for name in names:
        module = module.entry(name, get(900))
    reference = PersistentId(("reduce_package", 0, Global("torch.jit._script", "unpackage_script_module"), ("0",)))
    root = dumps([reference] * 5000, 3)
    code = "class M(Module):\n  __parameters__ = [" + "".join(f'"{name}", ' for name in names) + "]\n"
    members = {
        "models/m.pkl": root,
        ".data/extern_modules": b"",
        ".data/ts_code/0/data.pkl": module.op("BUILD").stop(),
        ".data/ts_code/code/__torch__.py": code.encode(),
        **{f".data/{key}": data for key, data in records.items()},
    }
    file = zip_file([(f"p/{name}", data) for name, data in members.items()], align=1)

    assert answer(file, tmp_path / "bomb") in ANSWERS


@pytest.mark.parametrize("arguments", [5, {"a": 1}, [[]], ("\ud800",), (None,), None])
def test_references_to_no_script(arguments, tmp_path):
    reference = PersistentId(("reduce_package", 0, Global("m", "f"), arguments))
    root = dumps({"a": reference}, 3)
    file = zip_file([("p/m.pkl", root), ("p/.data/extern_modules", b"")], align=1)

    assert answer(file, tmp_path / "bomb") in ANSWERS


@pytest.mark.parametrize(
    "text",
    [
        "class " * 300_000,
        "class M(Module):\n" + "  __a__ = \n" * 200_000 + "x",
        "class M(Module):\n  __buffers__ = [" + '"\\' * 900_000,
    ],
)
def test_odd_source_of_a_class(text, tmp_path):
    value, records = torch_pickle(tensor("float32", (2,), [1, 2]))
    root = Pickle(2).raw(b"c__torch__\nM\n").op("EMPTY_TUPLE").op("NEWOBJ").op("EMPTY_DICT")
    file = torchscript_file(root.entry("w", value[2:-1]).op("BUILD").stop(), records, {"__torch__.py": text})

    assert answer(file, tmp_path / "bomb") in ANSWERS


@pytest.mark.parametrize("key", [b"K\1", LISTS, DEEP_LIST, b"\x8b\x00\x40\x00\x00" + b"\x7f" * 0x4000], ids=range(4))
@pytest.mark.parametrize("place", ["storages", "tensors", "views"])
def test_odd_keys_of_a_tar(place, key, tmp_path):
    members = dict(torch_tar_members([(5, "FloatStorage", bytes(8))], [(7, 5, (2,), (1,), 0)], dumps({}, 2)))
    odd = b"\x80\2" + key
    if place == "views":
        members["storages"] = members["storages"][: -len(dumps([], 2))] + odd + b"K\5K\0K\1(" + b"t\x85."
    else:
        members[place] = b"\x80\2K\1." + odd + assemble("1 NONE") + b"\x87."
    file = tar_file(members.items())

    assert answer(file, tmp_path / "bomb") in ANSWERS


def test_a_tar_that_claims_very_many_tensors(tmp_path):
    for count in (10**6, 2**62):
        members = dict(torch_tar_members([], [], dumps({}, 2)))
        members["tensors"] = dumps(count, 2) + bytes(100)

        assert answer(tar_file(members.items()), tmp_path / "bomb") in ANSWERS


def test_every_folder_has_its_smallest_form():
    assert set(FOLDERS) == {"sharded", "dcp"}
