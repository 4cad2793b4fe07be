"""What kind of file system a file lies on: `statfs`, which the standard library lacks."""

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
    """
    unsigned long filesystem_magic(int fd) noexcept nogil


def filesystem_type(int descriptor):
    """The magic number of the file system of an open file, as statfs(2) lists them; 0 where it is unknown."""
    cdef unsigned long magic
    with nogil:
        magic = filesystem_magic(descriptor)
    return magic
