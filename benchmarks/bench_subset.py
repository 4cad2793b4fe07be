"""What does it cost to take a tenth of the tensors of a 2 GiB file: how much memory, and how much is read of the disk?

The thirty tensors lie spread over the file. Each reader has a process of its own; memory is counted from the moment
when its imports are done. Cold means that the file was taken out of the page cache, and that this was verified; the
bytes are those that the system fetched from the disk for this process (`read_bytes` of /proc/self/io).
"""

import pytest

import child
import inputs
from memory import MIB

STEP = 10  # every tenth
BAR = "private memory of views ≤ 5 MB; load() reads ≤ 1.1 × the bytes of the tensors"
WORK = {
    "fastload views": "maps; a view each, touched",
    "fastload load()": "load(include=…): into memory of its own",
    "safe_open numpy": "maps; get_tensor copies each into new memory",
    "safe_open torch": "maps; get_tensor is a view each, touched",
}


@pytest.mark.parametrize("state", ["warm", "cold"])
@pytest.mark.parametrize("reader", WORK)
def test_a_tenth(benchmark, files, reader, state):
    path = files.large("safetensors")
    expected = sum(array.nbytes for array in list(inputs.large().values())[::STEP])
    benchmark.group = f"a tenth of the tensors, {expected / MIB:,.0f} MiB, {state}"

    found = benchmark.pedantic(child.run, args=("subset", reader, path, STEP, state))

    assert found["nbytes"] == expected
    if found["not_cold"]:
        pytest.skip(found["not_cold"])
    benchmark.extra_info["subset"] = {"name": reader, "work": WORK[reader], "bar": BAR, "state": state, **found}
