"""Bytes that change after `open`, or during it: values may differ or an error come, never an access out of bounds."""

import contextlib
import threading

import pytest

import fastload
from builders import SMALLEST, WRAPPED, safetensors_file, smallest_file, tensor, torch_file
from reading import read_all


def several(deflate=()):
    root = {f"t{n}": tensor("int32", (2, n), range(2 * n), strides=(1, 2)) for n in range(9)}
    return torch_file({**root, "lr": 0.1, "names": ["a", "b"]}, deflate=deflate)


FILES = {
    **{name: smallest_file(name) for name in [*SMALLEST, *WRAPPED]},
    "several tensors": safetensors_file({f"t{n}": ("F32", (n,), bytes(4 * n)) for n in range(9)}, metadata={"k": "v"}),
    "archive": several(),
    "deflated": several(["data.pkl", "data/1", "data/2", "data/3"]),
}
PATTERNS = [b"\0", b"\xff", b"PK\1\2", b"9", b'"', b"{"]


def use(checkpoint):
    """Ask for everything; errors of ours are answers."""
    for ask in (lambda: repr(checkpoint), lambda: checkpoint.objects, lambda: checkpoint.metadata):
        with contextlib.suppress(fastload.FastloadError):
            ask()
    for name in list(checkpoint):
        with contextlib.suppress(fastload.FastloadError):
            checkpoint[name].tobytes()
            repr(checkpoint.entry(name))


@pytest.mark.parametrize("pattern", PATTERNS, ids=ascii)
@pytest.mark.parametrize("name", FILES)
def test_bytes_overwritten_between_open_and_access(name, pattern):
    buffer = bytearray(FILES[name])
    checkpoint = fastload.open(buffer)
    names = list(checkpoint)
    buffer[:] = (pattern * len(buffer))[: len(buffer)]

    use(checkpoint)

    assert list(checkpoint) == names  # names and shapes are our own, values are theirs


@pytest.mark.parametrize("name", FILES)
def test_each_byte_changed_between_open_and_access(name):
    buffer = bytearray(FILES[name])
    for at in range(0, len(buffer), 1 + len(buffer) // 700):
        checkpoint = fastload.open(buffer)
        kept, buffer[at] = buffer[at], 0xFF
        use(checkpoint)
        buffer[at] = kept


@pytest.mark.parametrize("name", FILES)
def test_bytes_that_change_while_they_are_parsed(name):
    """Another thread keeps writing; the parsers let go of the GIL, so they do see both versions."""
    whole = FILES[name]
    buffer, done = bytearray(whole), threading.Event()

    def scribble():
        step = 0
        while not done.is_set():
            at = step * 7919 % len(buffer)
            buffer[at] = 0xFF if step % 3 else 0x39
            buffer[at] = whole[at]
            step += 1

    writer = threading.Thread(target=scribble)
    writer.start()
    try:
        for _ in range(300):
            read_all(buffer)
    finally:
        done.set()
        writer.join()

    assert read_all(bytes(whole))


def test_a_file_overwritten_in_place_under_its_mapping(tmp_path):
    for name, whole in FILES.items():
        path = tmp_path / name
        path.write_bytes(whole)
        checkpoint = fastload.open(path, io="mmap")
        with open(path, "r+b") as file:
            file.write(b"\xff" * len(whole))

        use(checkpoint)
