"""Gaps in the indices of names, closed: the work of the plan's `contiguous_indices`, linear in the length of all names.

Prefixes are nodes of a tree of segments, so that no prefix is ever looked up as a whole.
"""

cimport cython


@cython.final
cdef class Prefix:
    """All segments before an index, in the original names."""
    cdef dict children           # segment: Prefix
    cdef dict numbers            # index segment: its new text

    cdef Prefix child(self, str segment):
        cdef Prefix found
        if self.children is None:
            self.children = {}
        found = <Prefix>self.children.get(segment)
        if found is None:
            found = Prefix.__new__(Prefix)
            self.children[segment] = found
        return found


cdef bint is_index(str segment) except? True:
    """Whether a segment is ASCII digits, with at most one `+` before them, whose value fits 64 bits."""
    cdef Py_ssize_t length = len(segment), i = 0, first
    cdef Py_UCS4 letter
    if length and segment[0] == u"+":
        i = 1
    if i == length:
        return False
    first = i
    while i < length:
        letter = segment[i]
        if not u"0" <= letter <= u"9":
            return False
        i += 1
    if length - first < 20:                      # as many nines fit
        return True
    digits = segment[first:].lstrip("0")
    return len(digits) < 20 or (len(digits) == 20 and digits <= "18446744073709551615")


cdef Py_ssize_t last_index(list segments) except -2:
    """The place of the last index among segments, or -1."""
    cdef Py_ssize_t place = len(segments) - 1
    while place >= 0 and not is_index(<str>segments[place]):
        place -= 1
    return place


cdef tuple bounds(str name, list only, list never):
    """From which segment on indices are renumbered, and from which on not any more."""
    cdef Py_ssize_t first = 0, end = len(name) + 1
    if only is not None:
        first = min([count for path, count in only if name.startswith(path)], default=end)
    for path, count in never:
        if name.startswith(path) and count < end:
            end = count
    return first, end


cdef list renumbered(list names, Prefix root, list only, list never):
    """The names with the numbers that the tree now has."""
    cdef list made = [], segments
    cdef Py_ssize_t last, place, first, end
    cdef Prefix node
    cdef bint changed
    for name in names:
        segments = (<str>name).split(".")
        last = last_index(segments)
        first, end = bounds(name, only, never) if last >= 0 and (only is not None or never) else (0, last + 1)
        node = root
        changed = False
        for place in range(last + 1):
            segment = segments[place]
            if node.numbers is not None and first <= place < end:
                number = node.numbers.get(segment)
                if number is not None and number != segment:
                    segments[place] = number
                    changed = True
            if place == last or node.children is None:
                break
            node = <Prefix>node.children.get(segment)
            if node is None:                     # of a name that was left out: nothing is known of its prefix
                break
        made.append(".".join(segments) if changed else name)
    return made


def renumber(list names not None, list others not None, list only, list never not None):
    """*names* with the gaps in their indices closed, and *others* renumbered as these are.

    Parameters
    ----------
    only, never : list of (str, int)
        Paths with a dot at their end, and the number of their segments: indices below one of *only* alone are
        renumbered (None: all), and none below one of *never*.
    """
    cdef Prefix root = Prefix.__new__(Prefix), node
    cdef list nodes = [], segments
    cdef Py_ssize_t last, place, first, end
    for name in names:
        segments = (<str>name).split(".")
        last = last_index(segments)
        first, end = bounds(name, only, never) if last >= 0 and (only is not None or never) else (0, last + 1)
        node = root
        for place in range(last + 1):
            segment = segments[place]
            if first <= place < end and is_index(segment):
                if node.numbers is None:
                    node.numbers = {}
                    nodes.append(node)
                node.numbers[segment] = None
            if place < last:
                node = node.child(segment)
    for node in nodes:
        values = {segment: int((<str>segment).lstrip("+").lstrip("0") or "0") for segment in node.numbers}
        ranks = {value: str(rank) for rank, value in enumerate(sorted(set(values.values())))}
        for segment, value in values.items():
            node.numbers[segment] = ranks[value]
    return renumbered(names, root, only, never), renumbered(others, root, only, never)
