"""Every proper prefix of a file is refused, whatever the way it is read."""

import pytest

import fastload
from builders import SMALLEST, WRAPPED, smallest_file, tensor, torch_file
from fastload import FormatError


@pytest.mark.parametrize("format_name", [*SMALLEST, *WRAPPED])
def test_every_proper_prefix_of_a_file_is_refused(format_name):
    whole = smallest_file(format_name)
    for cut in range(len(whole)):
        with pytest.raises(FormatError):
            list(fastload.open(whole[:cut]).values())


@pytest.mark.parametrize("io", ["mmap", "read"])
@pytest.mark.parametrize("format_name", [*SMALLEST, *WRAPPED])
def test_every_proper_prefix_on_disk_is_refused(format_name, io, tmp_path):
    whole, path = smallest_file(format_name), tmp_path / "cut"
    for cut in range(0, len(whole), 7):
        path.write_bytes(whole[:cut])
        with pytest.raises(FormatError):
            list(fastload.open(path, io=io).values())


@pytest.mark.parametrize(
    "options", [{}, {"deflate": ["data.pkl", "data/0"]}, {"zip64": "everywhere"}], ids=["as torch", "deflated", "zip64"]
)
def test_every_proper_prefix_of_an_archive_is_refused(options):
    whole = torch_file({"w": tensor("float32", (2,), [1, 2])}, **options)
    for cut in range(len(whole)):
        with pytest.raises(FormatError):
            list(fastload.open(whole[:cut]).values())


@pytest.mark.parametrize("format_name", [*SMALLEST, "pt2-old", "nemo"])  # and gzip is in memory by then
def test_a_file_cut_after_it_was_opened_is_truncated_when_read(format_name, tmp_path):
    """Only for io="read"; of a mapping that shrinks, the operating system kills the process."""
    path = tmp_path / "model"
    path.write_bytes(smallest_file(format_name))
    checkpoint = fastload.open(path, io="read")
    with open(path, "r+b") as file:
        file.truncate(10)

    with pytest.raises(FormatError):
        checkpoint["w"]


@pytest.mark.parametrize("format_name", [*SMALLEST, *WRAPPED])
def test_one_byte_more_is_never_read_as_part_of_the_file(format_name):
    try:
        checkpoint = fastload.open(smallest_file(format_name) + b"\0")
    except FormatError:
        return
    assert checkpoint["w"].tolist() == [1, 2]
