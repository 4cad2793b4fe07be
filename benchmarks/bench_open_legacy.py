"""How long does it take to open a file of torch's legacy layout and list its N tensors?

That is what `torch.save` wrote before torch 1.6, and still does on demand: pickles, then the storages one by one. The
file lies in the page cache. The peers' work is described in `readers.py` and beside each result.
"""

import pytest

import inputs
from readers import LIST_LEGACY


@pytest.mark.parametrize("reader", LIST_LEGACY, ids=lambda reader: reader.name)
@pytest.mark.parametrize("count", inputs.TORCH_COUNTS)
def test_open_and_list(compare, files, count, reader):
    path = files.many(count, "legacy")

    compare(f"open and list a legacy stream, {count:,} tensors", reader, path, inputs.listing(inputs.many(count)))
