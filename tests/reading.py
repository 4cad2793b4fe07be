"""Reading a checkpoint to the full, as the hostile tests do."""

import fastload

PLACES = (
    lambda entry: entry.strides,
    lambda entry: entry.offset,
    lambda entry: entry.zero_copy,
    lambda entry: entry.file,
    lambda entry: entry.storage_nbytes,
    lambda entry: type(entry.quantization),
)
MAX_ARRAYS = 200  # that are touched: a small file can name very many


def read_all(source):
    """Ask for everything a user could ask of *source*; True if it is a checkpoint, False if any of it was refused.

    Raises whatever is not a FastloadError: that is what the hostile tests look for.
    """
    refusals, unsupported = [], []

    def ask(question, *arguments):
        try:
            return question(*arguments)
        except fastload.UnsupportedError as error:
            unsupported.append(str(error))
        except fastload.FastloadError as error:
            refusals.append(str(error))
        return None

    checkpoint = ask(fastload.open, source)
    if checkpoint is None:
        return False
    with checkpoint:
        for question in (
            lambda: repr(checkpoint),
            lambda: type(checkpoint.objects),  # whose own repr may be too deep
            lambda: type(checkpoint.metadata),
            lambda: len(repr(checkpoint.module_tree())),
            lambda: globals_of(checkpoint),
            checkpoint.verify,
        ):
            ask(question)
        for entry in ask(checkpoint.entries) or []:
            repr(entry), entry.name, entry.dtype, entry.kind, entry.shape, entry.key_path, entry.nbytes
            for question in PLACES:  # which may be looked up only now
                ask(question, entry)
        for name in (ask(lambda: list(checkpoint)) or [])[:MAX_ARRAYS]:
            assert name in checkpoint
            ask(touch, checkpoint, name)
        ask(lambda: list_attributes(source))
    assert all(said.isprintable() for said in refusals + unsupported), refusals + unsupported
    return not refusals


def globals_of(checkpoint):
    """The names that its pickles name."""
    return checkpoint._open_tensors().list_globals()


def list_attributes(source):
    """Open it once more, for the attributes of its modules."""
    with fastload.open(source, attributes=True) as checkpoint:
        return [entry.name for entry in checkpoint.entries()]


def touch(checkpoint, name):
    """Read one tensor: both ends of the memory it may reach, and all of it if it is small."""
    view = checkpoint[name]
    if view.size:  # as bytes: of an impossible text, numpy makes no value
        for end in (slice(0, 1), slice(-1, None)):
            view[(end,) * view.ndim].tobytes()
    if view.nbytes < 1 << 20:
        view.tobytes()


def mappings_of(array):
    """The files in whose mappings the first and the last byte of an array lie, where the system tells (Linux)."""
    begin, _ = array.__array_interface__["data"]
    found = set()
    with open("/proc/self/maps") as lines:
        for line in lines:
            fields = line.split(None, 5)
            first, end = (int(text, 16) for text in fields[0].split("-"))
            if any(first <= place < end for place in (begin, begin + array.nbytes - 1)):
                found.add(fields[5].strip() if len(fields) > 5 else "")
    return found
