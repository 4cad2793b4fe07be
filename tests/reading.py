"""Reading a checkpoint to the full, as the hostile tests do."""

import fastload


def read_all(source):
    """Ask for everything a user could ask of *source*; True if it is a checkpoint, False if it was refused.

    Raises whatever is not a FastloadError: that is what the hostile tests look for.
    """
    refusal = None
    try:
        with fastload.open(source) as checkpoint:
            repr(checkpoint), type(checkpoint.objects), type(checkpoint.metadata)  # whose own repr may be too deep
            for entry in checkpoint.entries():
                repr(entry), entry.key_path, entry.strides, entry.offset, entry.zero_copy
            for name in checkpoint:
                touch(checkpoint, name)
    except fastload.FastloadError as error:
        refusal = str(error)
    assert refusal is None or refusal.isprintable()
    return refusal is None


def touch(checkpoint, name):
    """Read one tensor: both ends of the memory it may reach, and all of it if it is small."""
    try:
        view = checkpoint[name]
    except fastload.UnsupportedError:
        return
    if view.size:
        view[(0,) * view.ndim], view[(-1,) * view.ndim]
    if view.nbytes < 1 << 20:
        view.tobytes()
