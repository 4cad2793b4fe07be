"""How long does it take to list a few tensors that lie among very many numbers and texts?

A training checkpoint may hold its vocabulary, its losses and its log beside the weights. Opening has to step over all
of them, and makes no Python object for any; torch makes one for each. The file lies in the page cache.
"""

import pytest

import inputs
from readers import LIST_SCALARS


@pytest.mark.parametrize("reader", LIST_SCALARS, ids=lambda reader: reader.name)
def test_open_and_list(compare, files, reader):
    expected = [(f"model.{name}", shape, dtype) for name, shape, dtype in inputs.listing(inputs.beside_scalars())]

    compare(f"open and list 22 tensors beside {inputs.SCALARS:,} scalars", reader, files.scalars(), expected)
