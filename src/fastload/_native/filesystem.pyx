"""What the standard library lacks of the file system: `statfs`, mappings that keep no descriptor, careful renames."""

cimport cython
from libc.errno cimport errno
from libc.stdint cimport uint64_t
from libc.string cimport strerror

from fastload._native.buffers cimport fill_buffer

cdef extern from *:
    """
    #if defined(__linux__)
    #include <sys/vfs.h>
    static unsigned long filesystem_magic(int fd) {
        struct statfs found;
        return fstatfs(fd, &found) == 0 ? (unsigned long)(unsigned int)found.f_type : 0;
    }
    #else
    static unsigned long filesystem_magic(int fd) { (void)fd; return 0; }
    #endif

    #include <errno.h>
    #include <stdio.h>
    #if defined(__linux__)
    #include <fcntl.h>
    #include <sys/syscall.h>
    #include <unistd.h>
    #endif
    static int rename_to_free_name(const char *source, const char *target) {
    #if defined(__linux__) && defined(SYS_renameat2)
        return (int)syscall(SYS_renameat2, AT_FDCWD, source, AT_FDCWD, target, 1U);  /* RENAME_NOREPLACE */
    #elif defined(__APPLE__)
        return renamex_np(source, target, RENAME_EXCL);
    #else
        (void)source; (void)target;
        errno = ENOSYS;
        return -1;
    #endif
    }

    #include <stdint.h>
    static void begin_writing(int fd, uint64_t offset, uint64_t count) {
    #if defined(__linux__) && defined(SYNC_FILE_RANGE_WRITE)
        sync_file_range(fd, (off64_t)offset, (off64_t)count, SYNC_FILE_RANGE_WRITE);
    #else
        (void)fd; (void)offset; (void)count;
    #endif
    }

    static void set_aside(int fd, uint64_t count) {
    #if defined(__linux__) && defined(FALLOC_FL_KEEP_SIZE)
        fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, (off_t)count);
    #else
        (void)fd; (void)count;
    #endif
    }

    #if defined(_WIN32)
    enum { can_map = 0 };
    static void *map_pages(int fd, size_t size, uint64_t offset, int is_private) {
        (void)fd; (void)size; (void)offset; (void)is_private;
        return NULL;
    }
    static void unmap_pages(void *address, size_t size) { (void)address; (void)size; }
    #else
    #include <sys/mman.h>
    enum { can_map = 1 };
    #if !defined(MAP_NORESERVE)
    #define MAP_NORESERVE 0
    #endif
    static void *map_pages(int fd, size_t size, uint64_t offset, int is_private) {
        int protection = is_private ? PROT_READ | PROT_WRITE : PROT_READ;
        int flags = is_private ? MAP_PRIVATE | MAP_NORESERVE : MAP_SHARED;
        void *address = mmap(NULL, size, protection, flags, fd, (off_t)offset);
        return address == MAP_FAILED ? NULL : address;
    }
    static void unmap_pages(void *address, size_t size) { munmap(address, size); }
    #endif
    """
    int can_map
    unsigned long filesystem_magic(int fd) noexcept nogil
    int rename_to_free_name(const char *source, const char *target) noexcept nogil
    void begin_writing(int fd, uint64_t offset, uint64_t count) noexcept nogil
    void set_aside(int fd, uint64_t count) noexcept nogil
    void *map_pages(int fd, size_t size, uint64_t offset, int is_private) noexcept nogil
    void unmap_pages(void *address, size_t size) noexcept nogil

cdef enum:
    MAX_MAPPED_BYTES = 0x7FFFFFFFFFFFFFFF  # a buffer's length is a signed number; of 32 bits where pointers are

CAN_MAP = bool(can_map)


def filesystem_type(int descriptor):
    """The magic number of the file system of an open file, as statfs(2) lists them; 0 where it is unknown."""
    cdef unsigned long magic
    with nogil:
        magic = filesystem_magic(descriptor)
    return magic


def rename_exclusively(bytes source, bytes target):
    """Rename a file, unless there is one of the new name already: one step of the system, without a race.

    Raises
    ------
    FileExistsError
        There is one.
    OSError
        ENOSYS or EINVAL: the system or the file system cannot rename so.
    """
    cdef const char *old = source
    cdef const char *new = target
    cdef int error = 0
    with nogil:
        if rename_to_free_name(old, new) != 0:
            error = errno
    if error:
        raise OSError(error, strerror(error).decode("ascii", "replace"))


def begin_sync(int descriptor, uint64_t offset, uint64_t count):
    """Have the disk begin with *count* bytes from *offset* on that were written to a file; does not wait for it.

    A hint, which nothing comes of where the system or the file system lacks it: only a sync in the end says that the
    bytes are there, and what went wrong with them.
    """
    if offset > MAX_MAPPED_BYTES or count > MAX_MAPPED_BYTES - offset:
        raise OverflowError(f"no file has {count:,} bytes at {offset:,}")
    with nogil:
        begin_writing(descriptor, offset, count)


def allocate(int descriptor, uint64_t count):
    """Have the file system set blocks aside for the first *count* bytes of a file; its size stays.

    A hint, like `begin_sync`: where there is no room for them, writing says so.
    """
    if count > MAX_MAPPED_BYTES:
        raise OverflowError(f"no file has {count:,} bytes")
    with nogil:
        set_aside(descriptor, count)


@cython.final
cdef class FileMapping:
    """A run of *size* bytes of an open file, mapped until nothing refers to it: shared and read-only, or private.

    A private one may be written to: a page that is written becomes memory of its own, which neither the file nor
    another mapping ever sees. No memory is set aside for it before. *offset* is a multiple of the page size.

    The descriptor may be closed at once: `mmap.mmap` of Python 3.11 and 3.12 keeps a duplicate, and a checkpoint of a
    thousand shards would then need more descriptors than a process may have.

    Raises
    ------
    OSError
        The system cannot map the file: its file system has no mappings, or there is no room for one.
    """

    cdef void *start
    cdef Py_ssize_t size
    cdef bint is_private

    def __cinit__(self, int descriptor, uint64_t size, uint64_t offset=0, bint private=False):
        cdef void *address = NULL
        cdef int error = 0
        cdef uint64_t most = min(<uint64_t>(<size_t>-1 >> 1), <uint64_t>MAX_MAPPED_BYTES)
        if offset > most or size > most - offset or not can_map:
            raise OverflowError(f"{size:,} bytes are more than can be mapped")
        if size:
            with nogil:
                address = map_pages(descriptor, <size_t>size, offset, private)
                if address == NULL:
                    error = errno
            if address == NULL:
                raise OSError(error, strerror(error).decode("ascii", "replace"))
        self.start = address
        self.size = <Py_ssize_t>size
        self.is_private = private

    def __dealloc__(self):
        if self.start != NULL:
            with nogil:                      # the pages of a large file are many
                unmap_pages(self.start, <size_t>self.size)

    def __len__(self):
        return self.size

    @property
    def address(self):
        """Where the bytes lie in memory."""
        return <size_t>self.start

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        fill_buffer(buffer, self, self.start, self.size, not self.is_private, flags)
