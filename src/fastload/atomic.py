"""Writing a file so that its path holds the old one or the new one, whole, at every moment. The only place that writes.

The bytes go into a temporary file in the same folder, which is synced and then renamed. While it is written it is
locked, and the system lets go of the lock when the process ends, however it ends: so a temporary file without a lock
was abandoned, and the next one who writes to the same path clears it away.
"""

from __future__ import annotations

import errno
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO, NoReturn

from fastload._native import allocate, begin_sync, filesystem_type, rename_exclusively
from fastload.errors import Advice, SaveError, advised

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["publish", "staging", "sync_folder"]

BUFFER_BYTES = 1 << 20  # of small writes that are gathered; larger ones pass by
# The same of files less than 16 times as large as that: to have such a buffer costs as much as to write a megabyte.
LITTLE_BUFFER_BYTES = 64 << 10
COPIED_BYTES = 64 << 20  # that the system copies at once, so that it can be told how far it is
SYNCED_BYTES = 32 << 20  # that wait at least before the disk begins with them
ALLOCATED_BYTES = 4 << 20  # of a file for which blocks are set aside before it is written
# Where that was measured, and writing takes two thirds of the time: ext4. Others keep no room for what they compress,
# or fill what is set aside with zeros first.
ALLOCATING_FILE_SYSTEMS = frozenset({0xEF53})
RANDOM_BYTES = 8  # in the name of a temporary file
SUFFIX = ".fastload-tmp"
MAX_STEM_BYTES = 200  # of the target's name within that; names have at most 255
MAX_ATTEMPTS = 100  # at a temporary file; each fails only if somebody clears it in the instant before it is locked
READABLE = 0o444  # bits of a mode; those of running a file stand two to the right
FOLDER_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
# What says that the system, or the file system, lacks an operation.
NOT_THERE = frozenset({errno.ENOSYS, errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOTTY})
NOT_COPIED = NOT_THERE | {errno.EXDEV, errno.EBADF, errno.ETXTBSY}  # two file systems, or a file that is odd


def already_there(path: str) -> FileExistsError:
    """The error that a file is in the way, which nobody has allowed to replace."""
    give = Advice(": give {} to replace it", "overwrite", True)
    return advised(FileExistsError(errno.EEXIST, f"is there already{give}", path), give)


@contextmanager
def publish(
    path: str, *, overwrite: bool = False, size: int = 0, sync: bool = True, executable: bool = False
) -> Iterator[BinaryIO]:
    """A file to write to, which comes to *path* when the block ends, and not at all if it raises.

    Beside what files can do, it has the system copy bytes of another file into it: see `_Buffered.copy_from`.

    Parameters
    ----------
    path : str
        Where it shall be. Of a symbolic link, the file to which it points, and the link stays.
    overwrite : bool
        Whether it may take the place of a file that is there; it then has its mode.
    size : int
        Bytes that will be written at least: refused at once where there is no room for them.
    sync : bool
        Whether it is on the disk when the block has ended, so that a failing of the power cannot harm it.
    executable : bool
        Whether the file may be run by all who may read it.

    Raises
    ------
    FileExistsError
        There is a file, and *overwrite* is false; even if it came while ours was written.
    SaveError
        Writing failed, or what is there is no file. What was there is untouched.
    OSError
        There is no such folder, or no permission to write to it.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    status = _status(target)
    if status is not None and not overwrite:
        raise already_there(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        what = "a folder" if stat.S_ISDIR(status.st_mode) else "a device, pipe or socket"
        raise SaveError(f"is {what}, and no file that could be replaced", path=path, errno=errno.EISDIR)
    _clear(folder, name)
    _check_room(folder, size, path)
    # A file that replaces a private one is private from the first; a new one gets what the umask leaves.
    temporary, file = _create(folder, name, path, 0o666 if status is None else 0o600)
    try:
        file.is_synced = sync
        if size >= ALLOCATED_BYTES and filesystem_type(file.fileno()) in ALLOCATING_FILE_SYSTEMS:
            allocate(file.fileno(), size)
        buffered = _Buffered(file, BUFFER_BYTES if size >= 16 * BUFFER_BYTES else LITTLE_BUFFER_BYTES)
        yield buffered
        buffered.flush()
        with file.failing("could not be synced to the disk"):
            if hasattr(os, "fchmod"):
                mode = stat.S_IMODE((status or os.fstat(file.fileno())).st_mode)
                if status is not None or executable:
                    os.fchmod(file.fileno(), mode | (mode & READABLE) >> 2 if executable else mode)
            if sync:
                os.fsync(file.fileno())
        if os.name == "nt":
            file.close()  # Windows renames no open file
        _move(temporary, target, path, overwrite=overwrite)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    finally:
        file.close()  # and with it the lock; what is still in the buffer of a failed attempt is dropped
    if sync:
        sync_folder(folder, path)


@contextmanager
def staging(folder: str, name: str) -> Iterator[str]:
    """A hidden folder within *folder* for files that are to appear together; it goes, with what is left, in the end.

    One that a process of the same *name* has abandoned is emptied first.

    Raises
    ------
    SaveError
        Another process is writing there.
    """
    path = os.path.join(folder, f"{_stem(name)}{SUFFIX.lstrip('.')}")
    with suppress(FileExistsError):
        os.mkdir(path)
    # Where folders cannot be opened there are no locks on them either.
    descriptor = None if os.name == "nt" else os.open(path, FOLDER_FLAGS | getattr(os, "O_NOFOLLOW", 0))
    try:
        if descriptor is not None and (_lock(descriptor) is False or not _is_at(descriptor, path)):
            raise SaveError("is being written to by another process", path=folder)
        _empty(path)
        try:
            yield path
        finally:
            _empty(path)
            os.rmdir(path)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _empty(folder: str) -> None:
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))


class _Temporary(io.FileIO):
    """A file whose failures are ours: SaveError, which is never mistaken for one of a source that is being read."""

    target: str
    is_synced = False
    begun = 0  # bytes from the start of the file that the disk has been given

    def write(self, data: Buffer, /) -> int:
        with self.failing("could not be written"):
            written = super().write(data)
        self.begin_sync()
        return written

    def begin_sync(self) -> None:
        """Have the disk begin with what has been written, so that there is little to wait for in the end."""
        if self.is_synced:
            count = self.tell() - self.begun
            if count >= SYNCED_BYTES:
                begin_sync(self.fileno(), self.begun, count)
                self.begun += count

    @contextmanager
    def failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            written = os.fstat(self.fileno()).st_size
            reason = error.strerror or str(error)
            message = f"{what} ({reason}, after {written:,} bytes): what was there before, if anything, is untouched"
            raise SaveError(message, path=self.target, written=written, errno=error.errno) from None


class _Buffered(io.BufferedWriter):
    """What gathers small writes for a temporary file, and has the system copy large runs of other files into it."""

    raw: _Temporary

    def copy_from(self, descriptor: int, offset: int, count: int, tell: Callable[[int], object] | None = None) -> int:
        """Copy *count* bytes from *offset* on of an open file, without having them in the memory of this process.

        Parameters
        ----------
        tell : function, optional
            Called with how many bytes have been copied, each time that some have.

        Returns
        -------
        int
            How many are copied: fewer where the system cannot, or where that file ends.
        """
        if not hasattr(os, "copy_file_range"):
            return 0
        self.flush()
        file, left = self.raw, count
        while left:
            with file.failing("could not be written"):
                try:
                    copied = os.copy_file_range(descriptor, file.fileno(), min(left, COPIED_BYTES), offset)
                except OSError as error:
                    if error.errno not in NOT_COPIED:
                        raise
                    break
            if not copied:
                break
            offset += copied
            left -= copied
            file.begin_sync()
            if tell is not None:
                tell(copied)
        self.seek(file.tell())
        return count - left


def _status(target: str) -> os.stat_result | None:
    try:
        return os.stat(target)
    except FileNotFoundError:
        return None


def _create(folder: str, name: str, path: str, mode: int) -> tuple[str, _Temporary]:
    """A new temporary file for the target *name*, locked."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    for _ in range(MAX_ATTEMPTS):
        temporary = os.path.join(folder, f"{_stem(name)}{os.urandom(RANDOM_BYTES).hex()}{SUFFIX}")
        try:
            descriptor = os.open(temporary, flags | getattr(os, "O_NOFOLLOW", 0), mode)
        except FileExistsError:
            continue
        except OSError as error:
            error.filename = path  # the temporary file is no matter of the user's
            raise
        file = _Temporary(descriptor, "wb")
        file.target = path
        # Between these two steps somebody may have found it without a lock, and cleared it.
        if _lock(descriptor) is not False and _is_at(descriptor, temporary):
            return temporary, file
        file.close()
    raise SaveError("no temporary file beside it could be had", path=path)


def _lock(descriptor: int) -> bool | None:
    """Lock an open file; False if somebody else has, None where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(descriptor: int, path: str) -> bool:
    """Whether an open file is the one at *path*."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path, follow_symlinks=False))
    except OSError:
        return False


def _stem(name: str) -> str:
    """What the names of the temporary files of one target begin with."""
    encoded = os.fsencode(name)
    if len(encoded) > MAX_STEM_BYTES:
        from hashlib import blake2b

        name = blake2b(encoded, digest_size=16).hexdigest()
    return f".{name}."


def _clear(folder: str, name: str) -> None:
    """Remove the temporary files of this target that nobody has locked."""
    pattern = re.compile(rf"{re.escape(_stem(name))}[0-9a-f]{{{2 * RANDOM_BYTES}}}{re.escape(SUFFIX)}")
    try:
        found = [entry for entry in os.listdir(folder) if pattern.fullmatch(entry)]
    except OSError:
        return  # a folder that may be written to, and not listed
    for entry in found:
        abandoned = os.path.join(folder, entry)
        flags = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        with suppress(OSError):  # it is gone already, or not ours to remove
            descriptor = os.open(abandoned, flags)
            try:
                if stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor) and _is_at(descriptor, abandoned):
                    os.unlink(abandoned)
            finally:
                os.close(descriptor)


def _check_room(folder: str, size: int, path: str) -> None:
    if not hasattr(os, "statvfs"):
        return
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if found.f_blocks and size > free:  # file systems that count no blocks say 0 to everything
        message = f"needs {size:,} bytes, and the disk has {free:,} free: nothing was written"
        raise SaveError(message, path=path, errno=errno.ENOSPC)


def _move(temporary: str, target: str, path: str, *, overwrite: bool) -> None:
    """Give the finished file its name."""
    try:
        if overwrite:
            os.replace(temporary, target)
        elif os.name == "nt":
            os.rename(temporary, target)  # which does not clobber there
        else:
            _move_to_free_name(temporary, target)
    except FileExistsError:
        raise FileExistsError(errno.EEXIST, "came to be while its new content was written", path) from None
    except OSError as error:
        _refuse_move(error, path)


def _move_to_free_name(temporary: str, target: str) -> None:
    """Rename without clobbering, in one step of the system; where it has none, by a second link, which does not."""
    try:
        rename_exclusively(os.fsencode(temporary), os.fsencode(target))
    except OSError as error:
        if error.errno not in NOT_THERE:
            raise
        os.link(temporary, target)
        os.unlink(temporary)


def _refuse_move(error: OSError, path: str) -> NoReturn:
    use = Advice("; use {}", "overwrite", True)
    hint = f": a file system that cannot rename without clobbering{use}" if error.errno in NOT_THERE else ""
    message = f"could not be given its name ({error.strerror}){hint}; the temporary file is removed"
    raise advised(SaveError(message, path=path, errno=error.errno), use) from None


def sync_folder(folder: str, path: str) -> None:
    """See that the new name is on the disk, too."""
    if os.name == "nt":
        return  # folders cannot be opened there
    try:
        descriptor = os.open(folder, FOLDER_FLAGS)
    except PermissionError:
        return  # a folder that may be written to, and not read
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NOT_THERE:
            message = f"was written, but its folder could not be synced to the disk ({error.strerror})"
            raise SaveError(message, path=path, errno=error.errno) from None
    finally:
        os.close(descriptor)
