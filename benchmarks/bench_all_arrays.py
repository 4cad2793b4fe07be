"""How long does it take to have all 300 tensors of a file of 2 GiB as arrays, and who copies them?

The file lies in the page cache, and no peer's time includes reading the values. That fastload neither copies nor
touches a byte of them is counted: by the kernel, page by page, and by taking away the right to read.
"""

import signal
import subprocess

import pytest

import child
import inputs
from readers import ARRAYS_SAFETENSORS, ARRAYS_TORCH

PEERS = [("safetensors", reader) for reader in ARRAYS_SAFETENSORS] + [("pt", reader) for reader in ARRAYS_TORCH]
HEADER_PAGES = 2  # of one record of an archive: where its data begins is looked up when the array is asked for


@pytest.fixture(scope="module")
def expected():
    return inputs.checksums(inputs.large())


@pytest.mark.parametrize(("suffix", "reader"), PEERS, ids=[f"{suffix}-{reader.name}" for suffix, reader in PEERS])
def test_all_arrays(compare, files, expected, suffix, reader):
    path = files.large(suffix)

    compare(f"all arrays of .{suffix}, {path.stat().st_size >> 20:,} MiB", reader, path, expected)


@pytest.mark.parametrize("suffix", inputs.WRITERS)
def test_fastload_touches_no_page_of_tensor_data(files, suffix):
    path = files.large(suffix)

    counted = child.run("count-pages", path)
    guarded = child.run("read-guarded", path)

    assert counted["copied"] == 0
    assert counted["touched_pages"] <= (HEADER_PAGES * inputs.LARGE_COUNT if suffix == "pt" else 0)
    assert guarded["arrays"] == inputs.LARGE_COUNT
    assert guarded["guarded_pages"] >= guarded["pages"] - 2 * inputs.LARGE_COUNT - 64  # all but the edges of tensors


@pytest.mark.parametrize("suffix", inputs.WRITERS)
def test_the_guard_would_have_noticed(files, suffix):
    with pytest.raises(subprocess.CalledProcessError) as stopped:
        child.run("read-guarded", files.large(suffix), "touch")

    assert -stopped.value.returncode in (signal.SIGSEGV, signal.SIGBUS)
