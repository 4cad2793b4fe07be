"""What the tests of TensorRef have other processes do: here, so that those can import it."""

import os


def told(ref):
    """Of the array behind a reference: its values, its dtype, whether it may be written to, the process."""
    array = ref.array()
    return array.tolist(), str(array.dtype), array.flags.writeable, os.getpid()


def mapped_bytes(ref):
    """How many bytes of the file are mapped in this process while the array lives."""
    array = ref.array()
    with open("/proc/self/maps", encoding="utf-8") as lines:
        spans = [line.split()[0].split("-") for line in lines if line.rstrip().endswith(ref.path)]
    assert array.nbytes
    return sum(int(end, 16) - int(begin, 16) for begin, end in spans)


def refusal(ref):
    """The name of the exception that the array raises."""
    try:
        ref.array()
    except Exception as error:
        return type(error).__name__, str(error)
    return None
