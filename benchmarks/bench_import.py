"""How long does the import take in a fresh process, beside what it stands on and its peers?

The modules are imported in turn, each time in a new process, so that a busy moment of the machine falls on all of them
alike. The child takes the time, and the interpreter's own start is not in it; `replay` hands it to pytest-benchmark.
"""

import pytest

import child
import inputs

WORK = {
    "fastload": "numpy, and the native core",
    "numpy": "which every reader of arrays needs",
    "safetensors": "its native core alone: no numpy yet",
    "safetensors.numpy": "numpy, and the native core",
    "torch": "all of torch; safetensors.torch needs it",
}
ROUNDS = 3 if inputs.QUICK else 7


@pytest.fixture(scope="module")
def seconds():
    """The times of each module; the first round, which may have to read from the disk, is left out."""
    rounds = [{module: child.run("import", module)["seconds"] for module in WORK} for _ in range(ROUNDS + 1)]
    return {module: [times[module] for times in rounds[1:]] for module in WORK}


@pytest.mark.parametrize("module", WORK)
def test_import(replay, seconds, module):
    replay("import in a fresh process", module, WORK[module], seconds[module])
