"""The index of a sharded checkpoint: strict JSON, within limits, whatever a hostile one holds."""

import contextlib
import json

import pytest

import fastload
from builders import smallest_file
from fastload.folders import weight_map


@pytest.fixture
def open_index(tmp_path):
    """Opens the index that it is given as text or bytes, beside the one shard `a`, which holds "w"."""
    (tmp_path / "a").write_bytes(smallest_file("safetensors"))

    def opened(text):
        (tmp_path / "model.json").write_bytes(text if isinstance(text, bytes) else text.encode())
        return fastload.open(tmp_path / "model.json")

    return opened


@pytest.mark.parametrize(
    "text",
    [
        '{"weight_map": {"w": "a"}}',
        '\ufeff \n{"metadata": {}, "weight_map": {"w": "a"}, "other": [1]}',
        '{"metadata": {"total_size": 8}, "weight_map": {"\\u0077": "a"}}',
        '{"metadata": {"x": ["y", {"z": 1, "v": null}, []]}, "weight_map": {"w": "a"}}',
        '{"metadata": {"\\"x\\"": ["y", {"z": 1, "v": null}, []]}, "weight_map": {"w": "a"}}',
    ],
)
def test_an_index_is_told_by_its_bytes_whatever_its_name(open_index, text):
    assert open_index(text)["w"].tolist() == [1, 2]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"weight_map": {"w": "a", "w": "b"}}', "'w' stands twice"),
        ('{"weight_map": {"w": "a"}, "weight_map": {}}', "'weight_map' stands twice"),
        ('{"metadata": {"x": [{"n": 1, "n": 2}]}, "weight_map": {"w": "a"}}', "'n' stands twice"),
        ('{"weight_map": {"w": "a", "\\u0077": "a"}}', "'w' stands twice"),
        ('{"weight_map": ["a"]}', "is a list"),
        ('{"weight_map": null}', "is a null"),
        ('{"weight_map": {"w": 1}}', "'w' a number"),
        ('{"weight_map": {"w": ["a"]}}', "'w' a list"),
        ('{"weight_map": {"w": true}}', "'w' a truth value"),
        ('{"metadata": "x", "weight_map": {"w": "a"}}', "metadata of the index is a text"),
        ('{"weight_map": {"w": "a"', "no sound JSON"),
        ('{"weight_map": {"w": "a"}} more', "no sound JSON"),
        ('{"weight_map": {"w": NaN}}', "NaN is no JSON"),
        ('{"metadata": {"n": ' + "9" * 10_000 + '}, "weight_map": {}}', "cannot be read"),
        (b'{"weight_map": {"\xff": "a"}}', "UTF-8"),
        ('{"weight_map": ' + "[" * 100_000, "nested too deeply"),
        ('{"metadata": {"x": ' + "[" * 101 + "]" * 101 + '}, "weight_map": {"w": "a"}}', "nested more than 100"),
    ],
)
def test_a_broken_index_is_refused_with_its_path(open_index, text, said):
    with pytest.raises(fastload.FormatError, match=said) as caught:
        open_index(text)

    assert caught.value.path.endswith("model.json")


def test_json_that_is_no_index_is_of_no_known_format(open_index):
    for text in ('{"hidden_size": 768}', "{}"):
        with pytest.raises(fastload.UnknownFormatError, match="holds no tensors"):
            open_index(text)


def test_an_index_in_memory_has_no_folder_to_look_in():
    with pytest.raises(fastload.UnsupportedError, match="by its path"):
        fastload.open(b'{"metadata": {}, "weight_map": {"w": "a"}}')
    with pytest.raises(fastload.UnknownFormatError, match="configuration"):
        fastload.open(b'{"hidden_size": 768}')


def test_a_safetensors_file_may_begin_like_json(tmp_path):
    from builders import safetensors_raw

    header = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}})
    raw = safetensors_raw(header.ljust(0x227B), b"\7")
    (tmp_path / "model").write_bytes(raw)

    assert raw.startswith(b'{"')
    assert fastload.open(tmp_path / "model")["w"].tolist() == [7]


def test_metadata_is_a_copy(open_index):
    checkpoint = open_index('{"metadata": {"total_size": 8, "x": {"y": [1]}}, "weight_map": {"w": "a"}}')
    checkpoint.metadata["x"]["y"].append(2)

    assert checkpoint.metadata == {"total_size": 8, "x": {"y": [1]}}


def test_limits_hold_at_them_and_not_one_past(open_index, monkeypatch):
    text = '{"metadata": {"x": [[]]}, "weight_map": {"w": "a"}}'
    limits = {"MAX_INDEX_BYTES": len(text), "MAX_INDEX_VALUES": 6, "MAX_METADATA_DEPTH": 3}
    for name, limit in limits.items():
        with monkeypatch.context() as patch:
            patch.setattr(weight_map, name, limit)
            assert open_index(text)["w"].tolist() == [1, 2]
            patch.setattr(weight_map, name, limit - 1)
            with pytest.raises(fastload.LimitError):
                open_index(text)


def test_any_damage_is_our_error_or_another_index(open_index):
    text = b'{"metadata": {"n": 1}, "weight_map": {"w": "a"}}'
    damaged = [text[:cut] for cut in range(len(text))]
    damaged += [text[:at] + bytes([byte]) + text[at + 1 :] for at in range(len(text)) for byte in b'\0\xff"{[\\/.9']

    for text in damaged:
        with contextlib.suppress(fastload.FastloadError):
            assert all(array.tolist() == [1, 2] for array in open_index(text).values())
