"""How long does it take to open a bare pickle of N tensors of torch, or N arrays of numpy, and list them?

`pickle.dump` of a dict, without `torch.save`: each tensor of torch then is a file of the legacy layout within the
pickle, each array of numpy its bytes. The peer is `pickle.load`, which carries out what the file says.
"""

import pytest

import inputs
from readers import TABLES

CASES = [(suffix, reader) for suffix in ("torch-pickle", "numpy-pickle") for reader in TABLES[f"list {suffix}"]]


@pytest.mark.parametrize(("suffix", "reader"), CASES, ids=[f"{suffix}-{reader.name}" for suffix, reader in CASES])
@pytest.mark.parametrize("count", inputs.TORCH_COUNTS)
def test_open_and_list(compare, files, count, suffix, reader):
    path = files.many(count, suffix)

    compare(f"open and list a {suffix}, {count:,} tensors", reader, path, inputs.listing(inputs.many(count)))
