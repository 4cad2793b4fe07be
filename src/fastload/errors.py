"""Every exception that fastload raises of its own accord.

A message says what is wrong, where, and what to do next. The parsers know only bytes and byte offsets; `open` and
`Checkpoint` add the path and the format on the way out (`located`).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, NamedTuple, TypeVar

__all__ = [
    "Advice",
    "ConfigError",
    "ConfigProblem",
    "FastloadError",
    "FormatError",
    "LimitError",
    "MemberNotFoundError",
    "NotInstalledError",
    "PlanError",
    "SaveError",
    "TensorNotFoundError",
    "TruncatedError",
    "UnknownFormatError",
    "UnsupportedError",
    "advised",
    "located",
    "near_hint",
    "printable",
]


MAX_SHOWN = 2000  # characters of a message
MAX_COMPARED_NAMES = 20_000  # when near names are looked for; more would make a typing error cost seconds


def printable(text: str) -> str:
    """*text* for a person's eyes: control, bidi and surrogate characters as escapes, the rest as it is."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


class Advice(NamedTuple):
    """A piece of a message that names an argument of Python: told apart, since a command line has flags instead.

    Attributes
    ----------
    text : str
        The piece, with ``{}`` where the argument stands. The message makes sense without it, too.
    parameter : str
        The argument's name.
    value : object
        What to give; None where that is for the reader to say.
    """

    text: str
    parameter: str
    value: Any = None

    def __str__(self) -> str:
        value = "" if self.value is None else repr(self.value)
        return self.text.format(f"{self.parameter}={value}")


class FastloadError(Exception):
    """Base of every error of fastload.

    Attributes
    ----------
    message : str
        What is wrong, without the place.
    path : str or None
        The file; None for a buffer.
    offset : int or None
        Where the trouble begins, in bytes from the start of the file (of the inflated record, where it was compressed).
    format : str or None
        The format that the file was taken for.
    advice : tuple of Advice
        The pieces of the message that name arguments of Python.
    """

    advice: tuple[Advice, ...] = ()

    def __init__(
        self, message: str, *, path: str | None = None, offset: int | None = None, format: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.offset = offset
        self.format = format

    def __str__(self) -> str:
        place = f"{self.path}: " if self.path else ""
        byte = f" (at byte {self.offset:#x})" if self.offset is not None else ""
        message = self.message
        if len(message) > MAX_SHOWN:  # it quotes a name of the file, which may be of any length
            message = f"{message[: MAX_SHOWN // 2]} … {message[-MAX_SHOWN // 2 :]}"
        return printable(f"{place}{message}{byte}")


class FormatError(FastloadError, ValueError):
    """The bytes break the rules of their format."""


class UnknownFormatError(FormatError):
    """The bytes are of no format that fastload knows."""


class TruncatedError(FormatError):
    """The file ends before what it promises; most often a download that was cut short."""


class LimitError(FormatError):
    """A count or length is beyond a stated limit, so that a hostile file cannot exhaust memory or time."""


class UnsupportedError(FastloadError, NotImplementedError):
    """The file is sound, but it, or this tensor of it, is something that fastload cannot give."""


class NotInstalledError(UnsupportedError):
    """What was asked for needs a package or a program that is not there; the message says which."""


class PlanError(FastloadError, ValueError):
    """A step of a plan cannot be done: a bad pattern, tensors that come to one name, parts that do not fit."""


class TensorNotFoundError(FastloadError, KeyError):
    """The checkpoint has no tensor of that name; the message offers near ones."""

    __str__ = FastloadError.__str__  # KeyError's would show the repr of the message


class MemberNotFoundError(FastloadError, FileNotFoundError):
    """A file within a file is not there: a member of an archive, a resource of a package, an embedded model."""

    __str__ = FastloadError.__str__  # OSError's shows the number of the error first


class SaveError(FastloadError, OSError):
    """A file could not be written, or only with losses; what was at its path before is whole.

    Attributes
    ----------
    lost : tuple of str
        What the format cannot keep, where that is the reason: nothing was written then.
    written : int
        Bytes that had been written, to a temporary file that is gone again.
    errno : int or None
        What the system said, as of any OSError.
    """

    def __init__(
        self,
        message: str,
        *,
        path: str | None = None,
        offset: int | None = None,
        format: str | None = None,
        lost: tuple[str, ...] = (),
        written: int = 0,
        errno: int | None = None,
    ) -> None:
        super().__init__(message, path=path, offset=offset, format=format)
        self.lost = lost
        self.written = written
        self.errno = errno

    __str__ = FastloadError.__str__  # OSError's shows the number of the error first


class ConfigProblem(NamedTuple):
    """One field that could not be filled: its dotted path, what it should be, and what is there."""

    path: str
    expected: str
    found: str


class ConfigError(FastloadError, ValueError):
    """What a checkpoint holds beside its tensors is not what `read_config` was asked for.

    Attributes
    ----------
    problems : tuple of ConfigProblem
        All fields that are missing or of another type; empty where something else is wrong.
    """

    def __init__(
        self,
        message: str,
        problems: tuple[ConfigProblem, ...] = (),
        *,
        path: str | None = None,
        offset: int | None = None,
        format: str | None = None,
    ) -> None:
        super().__init__(message, path=path, offset=offset, format=format)
        self.problems = problems


def located(error: FastloadError, path: str | None, format: str | None = None) -> FastloadError:
    """*error* itself, with the file and the format filled in where they are still unknown."""
    error.path = error.path or path
    error.format = error.format or format
    return error


AnyError = TypeVar("AnyError", bound=Exception)


def advised(error: AnyError, *advice: Advice) -> AnyError:
    """*error* itself, one of Python's own perhaps, knowing which pieces of its message are advice."""
    vars(error)["advice"] = advice
    return error


def near_hint(name: str, names: Collection[str]) -> str:
    """The end of a message that offers those of *names* that are like *name*; empty if none is or they are many."""
    if len(names) > MAX_COMPARED_NAMES:
        return ""
    import difflib  # only for a message

    near = difflib.get_close_matches(name, names, n=3)
    return f"; near: {', '.join(map(repr, near))}" if near else ""
