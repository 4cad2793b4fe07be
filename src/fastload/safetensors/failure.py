"""The one exception of the safetensors package, as that of this one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fastload.errors import FastloadError

__all__ = ["SafetensorError", "as_safetensor_error", "converted"]


class SafetensorError(FastloadError):
    """What is wrong with a file, an index or a tensor that is to be saved.

    A class of ours, and also a `FastloadError`: import it from here, as everything else. Its ``__cause__`` is the more
    precise error of fastload, where there is one.
    """


def converted(error: FastloadError) -> SafetensorError:
    """An error of fastload as the package's."""
    if isinstance(error, SafetensorError):
        return error
    return SafetensorError(error.message, path=error.path, offset=error.offset, format=error.format)


@contextmanager
def as_safetensor_error() -> Iterator[None]:
    """A block whose errors of fastload leave it as SafetensorError."""
    try:
        yield
    except SafetensorError:
        raise
    except FastloadError as error:
        raise converted(error) from error
