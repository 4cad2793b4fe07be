"""NeMo's `.nemo`: a tar archive of a checkpoint and its configuration. The checkpoint is read where it lies.

    model_config.yaml    the configuration
    model_weights.ckpt   a PyTorch zip, 512-byte aligned like every member, so that its own alignment survives
    *.ckpt               more of them, such as adapters
    …                    tokenisers and the like

A tar archive of another origin is opened as well if exactly one of its members is named as a checkpoint is. Names are
only compared; where one stands twice, the later member counts, as it would if the archive were extracted. A tar.gz is a
gzip file around it.

Format: nemo/core/connectors/save_restore_connector.py of NeMo.
"""

from __future__ import annotations

from fastload.errors import FastloadError, UnsupportedError
from fastload.formats.tarred import Member, is_tar, walk
from fastload.options import Options
from fastload.source import Source

__all__ = ["NAME", "parts", "probe"]

NAME = "nemo"

WEIGHTS = "model_weights.ckpt"
WEIGHTS_FOLDER = "model_weights/"
MORE_WEIGHTS = ".ckpt"
CHECKPOINTS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors", ".bpk", ".npz")
OF_TORCH = {"sys_info", "pickle", "tensors", "storages"}  # the members of torch's own archives, before 0.1.10
NEEDED_OF_TORCH = {"pickle", "tensors", "storages"}
MAX_LISTED = 10  # names in a message
MAX_SHOWN_NAME = 100  # characters of one


def probe(source: Source, head: bytes) -> bool:
    """Whether *source* is a tar archive, and not one of torch's own."""
    if not is_tar(head):
        return False
    members: dict[str, Member] = {}
    try:
        for member in walk(source):
            members[member.name] = member
            if members.keys() >= NEEDED_OF_TORCH:
                return False
    except FastloadError:
        return not members.keys() & OF_TORCH  # `parts` raises it again, where it is ours
    source.archive = members
    return True


def parts(source: Source, options: Options) -> list[Source]:
    """The checkpoints in it: parts of the file, of which nothing is read yet.

    Raises
    ------
    TruncatedError, FormatError, LimitError
        The archive is cut short or damaged, or has too many members.
    UnsupportedError
        It holds no checkpoint, too many, or one that does not lie there as it is.
    """
    members = source.archive if source.archive is not None else {member.name: member for member in walk(source)}
    return [source.part(member.offset, member.size) for member in _checkpoints(members)]


def _checkpoints(members: dict[str, Member]) -> list[Member]:
    named = [member for member in members.values() if _is_named(member)]
    weights = [member for member in named if _base(member) == WEIGHTS]
    if len(weights) > 1:
        raise UnsupportedError(
            f"holds the weights of {len(weights):,} parallel ranks ({_listed(weights)}), each with its slice of the"
            " tensors: unpack the archive, and open each or merge them with NeMo"
        )
    if weights:
        chosen = weights + [member for member in named if member.name.endswith(MORE_WEIGHTS) and member not in weights]
    elif any(name.startswith(WEIGHTS_FOLDER) for name in members):
        raise UnsupportedError(
            f"holds its weights as the distributed checkpoint {WEIGHTS_FOLDER!r}: unpack the archive and open that"
            " folder"
        )
    elif len(named) > 1:
        raise UnsupportedError(
            f"is a tar archive of {len(named):,} checkpoints ({_listed(named)}): unpack it and open the one you want"
        )
    elif not named:
        raise UnsupportedError(
            f"is a tar archive, and none of its {len(members):,} members is named as a checkpoint is:"
            f" {_listed(list(members.values()))}"
        )
    else:
        chosen = named
    for member in chosen:
        if member.kind != "file":
            raise UnsupportedError(
                f"is a tar archive, and its member {_shown(member)} is no plain file but of the sort {member.kind!r}:"
                " unpack the archive and open what is in it"
            )
    return chosen


def _is_named(member: Member) -> bool:
    """Whether a member is named as a checkpoint is; `._name` is what macOS knows about a file, and not the file."""
    return member.kind != "folder" and member.name.endswith(CHECKPOINTS) and not _base(member).startswith("._")


def _base(member: Member) -> str:
    return member.name.rpartition("/")[2]


def _shown(member: Member) -> str:
    name = member.name
    return repr(name if len(name) <= MAX_SHOWN_NAME else f"{name[:MAX_SHOWN_NAME]}…")


def _listed(members: list[Member]) -> str:
    more = len(members) - MAX_LISTED
    return ", ".join(map(_shown, members[:MAX_LISTED])) + (f" and {more:,} more" if more > 0 else "")
