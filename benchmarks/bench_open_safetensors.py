"""How long does it take to open a safetensors file, and to list the names, shapes and dtypes of its N tensors?

The file lies in the page cache. The peers' work is described in `readers.py` and beside each result.
"""

import pytest

import inputs
from readers import LIST_SAFETENSORS, OPEN_SAFETENSORS


@pytest.mark.parametrize("reader", OPEN_SAFETENSORS, ids=lambda reader: reader.name)
@pytest.mark.parametrize("count", inputs.SAFETENSORS_COUNTS)
def test_open(compare, files, count, reader):
    path = files.many(count, "safetensors")

    compare(f"open safetensors, {count:,} tensors", reader, path, inputs.names(inputs.many(count)))


@pytest.mark.parametrize("reader", LIST_SAFETENSORS, ids=lambda reader: reader.name)
@pytest.mark.parametrize("count", inputs.SAFETENSORS_COUNTS)
def test_open_and_list(compare, files, count, reader):
    path = files.many(count, "safetensors")

    compare(f"open and list safetensors, {count:,} tensors", reader, path, inputs.listing(inputs.many(count)))
