"""Bytes of files and buffers on their way into memory: read, and cast on the way, by several threads without the GIL.

What is to be moved is stated job by job, in the order in which the bytes lie, and cut into blocks: neighbours come
together, and long runs are taken apart. Threads then take one block after the other until none is left, so that all of
them end at the same time. No block crosses a huge page of the memory that it goes to, since two threads that touch a
fresh page at once would both clear it.

What is only copied is read straight into its place. What is cast, or comes with many others in one read, goes through a
little memory of each thread that stays in its cache.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.errno cimport EFAULT, EINTR, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memmove

from fastload._native.cast cimport convert_elements
from fastload._native.layout cimport Layout, Place
from fastload._native.vector cimport reserve

cdef extern from *:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <stdlib.h>
    #include <string.h>

    #if defined(_MSC_VER)
    #include <intrin.h>
    static uint64_t add_to(volatile uint64_t *number, uint64_t more) {
        return (uint64_t)_InterlockedExchangeAdd64((volatile __int64 *)number, (__int64)more);
    }
    #else
    static uint64_t add_to(volatile uint64_t *number, uint64_t more) {
        return __atomic_fetch_add(number, more, __ATOMIC_ACQ_REL);
    }
    #endif

    #if defined(_WIN32)
    /* Without a read at a position, files are not read here: what is mapped is copied. */
    enum { can_read = 0 };
    static int64_t read_at(int fd, char *target, size_t count, uint64_t position) {
        (void)fd; (void)target; (void)count; (void)position;
        errno = ENOSYS;
        return -1;
    }
    static char *aligned_block(size_t size) { return (char *)malloc(size); }
    static uint64_t milliseconds(void) { return 0; }
    #else
    #include <sys/mman.h>
    #include <time.h>
    #include <unistd.h>
    enum { can_read = 1 };
    static int64_t read_at(int fd, char *target, size_t count, uint64_t position) {
        const size_t most = (size_t)1 << 30;               /* Linux stops below 2 GiB */
        return (int64_t)pread(fd, target, count < most ? count : most, (off_t)position);
    }
    /* On huge pages where it is large: a disk writes to whole ones in half the time that it takes to small ones. */
    static char *aligned_block(size_t size) {
        const size_t huge = (size_t)1 << 21, alignment = size < huge ? 4096 : huge;
        void *block;
        size = (size + alignment - 1) / alignment * alignment;
        if (posix_memalign(&block, alignment, size)) return NULL;
        #if defined(MADV_HUGEPAGE)
        if (size >= huge) madvise(block, size, MADV_HUGEPAGE);
        #endif
        return (char *)block;
    }
    static uint64_t milliseconds(void) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
        return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
    }
    #endif

    /* Bring the pages of a mapping in. Where they cannot be had, since the file was cut or its disk fails, the copy
       would end the process with a signal; this says so before (Linux 5.14; EFAULT). */
    #if defined(__linux__)
    #if !defined(MADV_POPULATE_READ)
    #define MADV_POPULATE_READ 22
    #endif
    static int is_lost(const char *start, size_t size) {
        const size_t page = (size_t)sysconf(_SC_PAGESIZE), before = (size_t)start % page;
        return madvise((void *)(size_t)(start - before), before + size, MADV_POPULATE_READ) && errno == EFAULT;
    }
    #else
    static int is_lost(const char *start, size_t size) { (void)start; (void)size; return 0; }
    #endif

    #if defined(__linux__)
    static size_t page_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }
    /* A mapping of a run of a file that is only asked about; NULL where there can be none. */
    static char *map_pages(int fd, uint64_t begin, size_t size) {
        void *address = mmap(NULL, size, PROT_READ, MAP_SHARED, fd, (off_t)begin);
        return address == MAP_FAILED ? NULL : (char *)address;
    }
    static void unmap_pages(char *address, size_t size) { munmap(address, size); }
    static int is_resident(char *address, size_t page) {
        unsigned char found = 0;
        return mincore(address, page, &found) != 0 || (found & 1);
    }
    #else
    static size_t page_size(void) { return 4096; }
    static char *map_pages(int fd, uint64_t begin, size_t size) { (void)fd; (void)begin; (void)size; return NULL; }
    static void unmap_pages(char *address, size_t size) { (void)address; (void)size; }
    static int is_resident(char *address, size_t page) { (void)address; (void)page; return 1; }
    #endif
    """
    int can_read
    uint64_t add_to(volatile uint64_t *number, uint64_t more) noexcept nogil
    int64_t read_at(int fd, char *target, size_t count, uint64_t position) noexcept nogil
    char *aligned_block(size_t size) noexcept nogil
    uint64_t milliseconds() noexcept nogil
    bint is_lost(const char *start, size_t size) noexcept nogil
    size_t page_size() noexcept nogil
    char *map_pages(int fd, uint64_t begin, size_t size) noexcept nogil
    void unmap_pages(char *address, size_t size) noexcept nogil
    bint is_resident(char *address, size_t page) noexcept nogil

cdef enum:
    DIRECT_ALIGNMENT = 4096          # of position, length and memory of a direct read: what any disk takes
    SCRATCH_BYTES = 262_144          # for a thread: with what is made of it, it stays in the second cache
    MIN_STRAIGHT_BYTES = 32_768      # that are read into their place by a read of their own
    MAX_GAP_BYTES = 4096             # between two jobs, that is rather read than stepped over
    MILLISECONDS_A_REPORT = 50
    TRUNCATED = -1                   # where an errno would stand

CAN_READ = bool(can_read)
FLOAT_WIDTHS = (8, 4, 2, 2, 1, 1, 1, 1, 1)  # in the order of cast.FLOATS


cdef struct Origin:
    const char *memory               # NULL for a file
    bint is_mapped                   # memory of a file
    int descriptor
    int direct                       # one that goes around the page cache, or -1
    uint64_t size
    uint64_t span                    # bytes of a block, at most
    uint64_t page                    # of the target, of which no block crosses two; 0 where that does not matter

cdef struct Job:
    uint64_t position                # of the first byte in the origin
    uint64_t nbytes                  # there
    char *target
    size_t origin
    int from_float, to_float         # equal where nothing is cast
    uint8_t width, target_width      # of an element, here and there

cdef struct Block:
    size_t first, last               # jobs
    uint64_t begin, end              # positions in the origin

cdef struct Window:                  # a run of a file in the memory of a thread
    char *data                       # NULL until it is needed
    size_t capacity
    uint64_t begin, end


def count_cached(int descriptor, list positions not None):
    """How many of the pages at these *positions*, in bytes, of an open file are in memory; all where it is not told.

    Nothing is read for it. Linux says of files that the caller could not write to that all of it is in memory.
    """
    cdef size_t count = 0, page = page_size(), size
    cdef uint64_t position, begin
    cdef char *pages
    if not positions:
        return 0
    begin = min(positions)
    begin -= begin % page
    position = max(positions)
    size = position - begin + 1
    pages = map_pages(descriptor, begin, size)
    if pages == NULL:
        return len(positions)
    try:
        for position in positions:
            count += is_resident(pages + (position - begin) // page * page, page)
    finally:
        unmap_pages(pages, size)
    return count


@cython.final
cdef class Transfer:
    """Runs of bytes of files and buffers, and the memory that they go to.

    Targets, origins and jobs are added by one thread; then any number of threads may `work`.

    Attributes
    ----------
    total, done : int
        Bytes of the targets, in all and so far.
    blocks : int
        Into how many pieces the work was cut.
    failure : tuple or None
        Of the first that failed: the number of the job, the position in its origin, and an errno: EFAULT where pages of
        a mapping cannot be had, and None where a file ends too early.
    """

    cdef Py_buffer *held             # of targets and of origins in memory
    cdef size_t held_count, held_capacity
    cdef Origin *origins
    cdef size_t origins_count, origins_capacity
    cdef Job *jobs
    cdef size_t jobs_count, jobs_capacity
    cdef Block *cuts
    cdef size_t cuts_count, cuts_capacity
    cdef bint is_open                # the last block, to what comes next
    cdef bint is_started
    cdef size_t scratch              # of a thread, at most
    cdef uint64_t longest            # block, in bytes of its origin
    cdef volatile uint64_t taken, moved
    cdef volatile bint is_stopped
    cdef readonly uint64_t total
    cdef readonly object failure

    def __dealloc__(self):
        cdef size_t i
        for i in range(self.held_count):
            PyBuffer_Release(&self.held[i])
        free(self.held)
        free(self.origins)
        free(self.jobs)
        free(self.cuts)

    @property
    def done(self):
        return self.moved

    @property
    def blocks(self):
        return self.cuts_count

    cdef Py_buffer *hold(self, object data, int flags) except NULL:
        reserve(<void **>&self.held, &self.held_capacity, self.held_count + 1, sizeof(Py_buffer))
        PyObject_GetBuffer(data, &self.held[self.held_count], flags)
        self.held_count += 1
        return &self.held[self.held_count - 1]

    cdef size_t add_origin(self, Origin origin, uint64_t span, uint64_t page) except? 0:
        if self.is_started:
            raise ValueError("the work has begun")
        if span < DIRECT_ALIGNMENT or span > 1 << 30 or span % DIRECT_ALIGNMENT or page % 64:
            raise ValueError(f"blocks of {span:,} bytes within pages of {page:,}")
        origin.span = span
        origin.page = page
        self.is_open = False
        reserve(<void **>&self.origins, &self.origins_capacity, self.origins_count + 1, sizeof(Origin))
        self.origins[self.origins_count] = origin
        self.origins_count += 1
        return self.origins_count - 1

    def add_target(self, data):
        """Take a writable buffer to be filled; returns its number. It is held until the Transfer goes."""
        if self.is_started:
            raise ValueError("the work has begun")
        self.hold(data, PyBUF_WRITABLE)
        return self.held_count - 1

    def add_memory(self, data, uint64_t span, uint64_t page, bint is_mapped=False):
        """Take a buffer to copy from; returns its number. *span* and *page* are those of `add_file`.

        Of a buffer that is the mapping of a file it is seen, block by block, that the file is still there.
        """
        cdef Py_buffer *held = self.hold(data, PyBUF_SIMPLE)
        cdef Origin origin
        origin.memory = <const char *>held.buf
        origin.is_mapped = is_mapped
        origin.descriptor = origin.direct = -1
        origin.size = <uint64_t>held.len
        return self.add_origin(origin, span, page)

    def add_file(self, int descriptor, uint64_t size, uint64_t span, uint64_t page, int direct=-1):
        """Take an open file to read from; returns its number.

        Parameters
        ----------
        descriptor : int
            Stays open until the work is done.
        size : int
            Of the file, in bytes.
        span : int
            Bytes of a block at most; a multiple of 4096.
        page : int
            Of the target, of which no block crosses two; 0 where that does not matter.
        direct : int
            A second descriptor of the file, that goes around the page cache; -1 where there is none.
        """
        cdef Origin origin
        if descriptor < 0 or not can_read:
            raise ValueError("this file cannot be read at a position")
        origin.memory = NULL
        origin.is_mapped = False
        origin.descriptor = descriptor
        origin.direct = direct
        origin.size = size
        if direct >= 0:
            self.scratch = max(self.scratch, span + 2 * DIRECT_ALIGNMENT)
        self.scratch = max(self.scratch, <size_t>SCRATCH_BYTES)
        return self.add_origin(origin, span, page)

    def add(
        self, size_t origin, uint64_t position, uint64_t nbytes, size_t target, uint64_t offset,
        int from_float=-1, int to_float=-1,
    ):
        """Add a job: *nbytes* from *position* of an origin on go to *offset* of a target, cast if floats are given.

        Jobs of one origin are added in the order of their positions, else blocks are many.

        Raises
        ------
        ValueError
            The bytes are not all there, or do not all fit.
        """
        cdef Job job
        cdef Py_buffer *place
        cdef uint64_t count
        if self.is_started:
            raise ValueError("the work has begun")
        if origin >= self.origins_count or target >= self.held_count or self.held[target].readonly:
            raise ValueError("there is no such origin or target")
        if position > self.origins[origin].size or nbytes > self.origins[origin].size - position:
            raise ValueError(f"{nbytes:,} bytes at {position:,} are beyond the end of the data")
        job.width = job.target_width = 1
        if from_float != to_float:
            if not (0 <= from_float < len(FLOAT_WIDTHS) and 0 <= to_float < len(FLOAT_WIDTHS)):
                raise ValueError(f"{from_float} and {to_float} are not two floats")
            job.width, job.target_width = FLOAT_WIDTHS[from_float], FLOAT_WIDTHS[to_float]
        count = nbytes // job.width
        place = &self.held[target]
        if nbytes % job.width or offset > <uint64_t>place.len or count > (<uint64_t>place.len - offset) // (
            job.target_width
        ):
            raise ValueError(f"{nbytes:,} bytes do not fit at {offset:,} of {place.len:,}")
        job.position, job.nbytes, job.origin = position, nbytes, origin
        job.target = <char *>place.buf + offset
        job.from_float, job.to_float = from_float, to_float
        reserve(<void **>&self.jobs, &self.jobs_capacity, self.jobs_count + 1, sizeof(Job))
        self.jobs[self.jobs_count] = job
        self.jobs_count += 1
        self.total += count * job.target_width
        self.cut(&self.jobs[self.jobs_count - 1])

    def add_layout(self, size_t origin, uint64_t begin, size_t target, Layout layout not None):
        """Add the jobs of a Layout, whose block of memory a target is; the origin begins at *begin* of the file.

        Neighbours that stay neighbours are one job.
        """
        cdef const Place *place
        cdef const Place *after
        cdef uint64_t nbytes, size
        cdef size_t i = 0
        while i < layout.places_count:
            place = &layout.places[i]
            nbytes, size = place.nbytes, place.size
            i += 1
            while i < layout.places_count:
                after = &layout.places[i]
                if after.position - place.position != nbytes or after.start - place.start != size or (
                    after.from_float != place.from_float or after.to_float != place.to_float
                ):
                    break
                nbytes += after.nbytes
                size += after.size
                i += 1
            self.add(origin, place.position - begin, nbytes, target, place.start, place.from_float, place.to_float)

    cdef int cut(self, const Job *job) except -1:
        """Put a job into blocks: the last one, as far as it has room, and new ones."""
        cdef const Origin *origin = &self.origins[job.origin]
        cdef uint64_t position = job.position, left = job.nbytes, take, room
        cdef Block *block
        while left:
            block = &self.cuts[self.cuts_count - 1] if self.is_open else NULL
            if block == NULL or self.jobs[block.first].origin != job.origin or position < block.end or (
                position - block.end > MAX_GAP_BYTES or position - block.begin >= origin.span
            ):
                reserve(<void **>&self.cuts, &self.cuts_capacity, self.cuts_count + 1, sizeof(Block))
                block = &self.cuts[self.cuts_count]
                self.cuts_count += 1
                block.first = self.jobs_count - 1
                block.begin = block.end = position
                self.is_open = True
            take = min(left, origin.span - (position - block.begin))
            if origin.page:
                room = origin.page - <uint64_t><size_t>self.place_of(job, position) % origin.page
                take = min(take, room // job.target_width * job.width)
            take -= take % job.width
            if take == 0:
                if block.end != block.begin:         # what is left of it has no room for an element
                    self.is_open = False
                    continue
                take = job.width
            block.last = self.jobs_count - 1
            block.end = position + take
            self.longest = max(self.longest, block.end - block.begin)
            position += take
            left -= take
            self.is_open = left == 0
        return 0

    cdef inline char *place_of(self, const Job *job, uint64_t position) noexcept nogil:
        """Where the byte at a position of its origin goes."""
        return job.target + (position - job.position) // job.width * job.target_width

    def stop(self):
        """Let every thread come back after the block that it is at."""
        self.is_stopped = True

    def work(self, report=None):
        """Move blocks until none is left, or one has failed, or somebody said `stop`.

        Parameters
        ----------
        report : callable, optional
            Called without arguments now and then; what it raises ends the work of this thread.
        """
        cdef Window window
        self.is_started = True
        window.capacity = min(self.scratch, self.longest + 2 * <uint64_t>DIRECT_ALIGNMENT)
        window.data = NULL
        try:
            with nogil:
                self.move_blocks(&window, report)
        finally:
            free(window.data)

    cdef int move_blocks(self, Window *window, object report) except -1 nogil:
        cdef uint64_t number, failed_at = 0, last = milliseconds(), now
        cdef size_t failed_job = 0
        cdef int error
        while not self.is_stopped:
            number = add_to(&self.taken, 1)
            if number >= self.cuts_count:
                break
            error = self.move(&self.cuts[number], window, &failed_job, &failed_at)
            if error:
                self.fail(failed_job, failed_at, error)
                break
            now = milliseconds()
            if now - last >= MILLISECONDS_A_REPORT:
                last = now
                with gil:
                    if report is not None:
                        report()
        return 0

    cdef int fail(self, size_t job, uint64_t position, int error) except -1 with gil:
        self.is_stopped = True
        if self.failure is None:
            self.failure = (job, position, None if error == TRUNCATED else error)
        return 0

    cdef int move(self, const Block *block, Window *window, size_t *failed_job, uint64_t *failed_at) noexcept nogil:
        """Move one block; returns 0, or what went wrong and where."""
        cdef const Origin *origin = &self.origins[self.jobs[block.first].origin]
        cdef const Job *job
        cdef uint64_t position, end, count, moved = 0
        cdef size_t i
        cdef char *place
        cdef int error
        window.begin = window.end = 0
        if origin.is_mapped and is_lost(origin.memory + block.begin, block.end - block.begin):
            failed_job[0], failed_at[0] = block.first, block.begin
            return EFAULT
        for i in range(block.first, block.last + 1):
            job = &self.jobs[i]
            position = max(job.position, block.begin)
            end = min(job.position + job.nbytes, block.end)
            while position < end:
                count = end - position
                place = self.place_of(job, position)
                error = 0
                if origin.memory != NULL:
                    emit(job, origin.memory + position, place, count)
                elif job.from_float == job.to_float and origin.direct < 0 and count >= MIN_STRAIGHT_BYTES:
                    error = read_fully(origin.descriptor, place, count, position)
                else:
                    if not (window.begin <= position and position < window.end):
                        window.begin = window.end = position
                    if window.end - position < job.width:
                        error = fill_window(origin, window, position, block.end)
                    if not error:
                        count = min(count, window.end - position)
                        count -= count % job.width
                        emit(job, window.data + (position - window.begin), place, count)
                if error:
                    failed_job[0], failed_at[0] = i, position
                    return error
                position += count
                moved += count // job.width * job.target_width
        add_to(&self.moved, moved)
        return 0


cdef inline void emit(const Job *job, const char *source, char *place, uint64_t nbytes) noexcept nogil:
    """Bring whole elements to their place."""
    if job.from_float == job.to_float:
        memmove(place, source, nbytes)
    else:
        convert_elements(source, place, nbytes // job.width, job.from_float, job.to_float)


cdef int read_fully(int descriptor, char *place, uint64_t count, uint64_t position) noexcept nogil:
    """Read exactly so many bytes; returns 0, an errno, or TRUNCATED."""
    cdef int64_t done
    while count:
        done = read_at(descriptor, place, count, position)
        if done < 0:
            if errno == EINTR:
                continue
            return errno
        if done == 0:
            return TRUNCATED
        place += done
        position += done
        count -= done
    return 0


cdef int fill_window(const Origin *origin, Window *window, uint64_t position, uint64_t end) noexcept nogil:
    """Bring what begins at *position* into the window: to *end*, or as far as it has room."""
    cdef uint64_t begin = position, whole
    cdef int64_t done = 0
    cdef int error
    if window.data == NULL:
        window.data = aligned_block(window.capacity)
        if window.data == NULL:
            window.begin = window.end = 0
            return ENOMEM
    if origin.direct >= 0:
        # Of whole sectors around; and what a direct read does not give, as at the end of a file, is read after it.
        begin -= begin % DIRECT_ALIGNMENT
        whole = min(end - begin + (DIRECT_ALIGNMENT - 1), <uint64_t>window.capacity)
        whole -= whole % DIRECT_ALIGNMENT
        done = read_at(origin.direct, window.data, whole, begin)
        done = max(done, 0)
    end = min(end, begin + window.capacity)
    window.begin = begin
    window.end = end
    if begin + done >= end:
        return 0
    error = read_fully(origin.descriptor, window.data + done, end - begin - done, begin + done)
    if error:
        window.end = window.begin
    return error
