"""How long does it take to open a whole pickled module of N tensors and list them?

Each reader has a process of its own: torch's can import the class of the module, as it must, and fastload's cannot. The
process takes the time, and `replay` hands it to pytest-benchmark. The file lies in the page cache.
"""

import pytest

import child
import inputs
from readers import LIST_MODULE

COUNTS = [count for count in inputs.TORCH_COUNTS if count > 10]
ROUNDS = 3 if inputs.QUICK else 9


@pytest.mark.parametrize("reader", LIST_MODULE, ids=lambda reader: reader.name)
@pytest.mark.parametrize("count", COUNTS)
def test_open_and_list(replay, files, count, reader):
    server = child.Server("list module", reader.name, files.module(count))
    assert server.fingerprint == inputs.fingerprint(inputs.listing_of_module(count))
    seconds = [server.seconds() for _ in range(ROUNDS)]
    server.close()

    replay(f"open and list a whole module, {count:,} tensors", reader.name, reader.work, seconds)
