"""How long does it take to open a PyTorch archive and list the names, shapes and dtypes of its N tensors?

The file lies in the page cache. The peers' work is described in `readers.py` and beside each result.
"""

import pytest

import inputs
from readers import LIST_TORCH


@pytest.mark.parametrize("reader", LIST_TORCH, ids=lambda reader: reader.name)
@pytest.mark.parametrize("count", inputs.TORCH_COUNTS)
def test_open_and_list(compare, files, count, reader):
    path = files.many(count, "pt")

    compare(f"open and list .pt, {count:,} tensors", reader, path, inputs.listing(inputs.many(count)))
