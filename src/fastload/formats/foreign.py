"""What is no checkpoint and known all the same: what people download by mistake, and the formats of other programs.

Each row says what the file is and what to do about it. The tables are looked at only once no format has claimed a file.
"""

from __future__ import annotations

import re

from fastload.errors import Advice, FastloadError, FormatError, UnknownFormatError, UnsupportedError, advised

__all__ = ["MARKS", "RECORDS", "TAIL_BYTES", "TEXTS", "refuse", "refuse_archive", "unknown"]

TAIL_BYTES = 64  # of the end of a file, for the marks that stand there
MAX_QUOTED = 120  # characters of the file's own words in a message
_FAILED = "the download got an error message instead of the file"
_UNPACK = "unpack it first"

# (where, mark, error, what): where counts from the end if it is negative.
MARKS: tuple[tuple[int, bytes, type[FastloadError], str], ...] = (
    # Damaged or incomplete.
    (257, b"ustar", FormatError, "is a tar archive, and its first header is damaged or cut short: fetch it again"),
    (0, b"PK\7\x08", UnsupportedError, "is the first volume of a zip archive that was split: join the volumes first"),
    (0, b"PK00PK", UnsupportedError, "is a zip archive made to be split over volumes: unpack it and zip it again"),
    # Pointers to the file.
    (0, b"version https://git-lfs", UnknownFormatError, "is a git-lfs pointer and not the file: run `git lfs pull`"),
    (0, b"# xet version", UnknownFormatError, "is a Xet pointer and not the file: fetch it with git-xet"),
    (0, b"/annex/objects/", UnknownFormatError, "is a git-annex pointer and not the file: run `git annex get`"),
    (0, b"outs:\n", UnknownFormatError, "is a pointer of DVC and not the file: run `dvc pull`"),
    (0, b"[InternetShortcut]", UnknownFormatError, "is a link to a web page and not the file: download what it names"),
    (0, b"d8:announce", UnknownFormatError, "is a torrent and not the file: download what it describes"),
    # Compressed, packed or encrypted.
    (0, b"BZh", UnsupportedError, f"is compressed with bzip2: {_UNPACK}"),
    (0, b"\xfd7zXZ\0", UnsupportedError, f"is compressed with xz: {_UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", UnsupportedError, f"is compressed with zstd: {_UNPACK}"),
    (0, b"\x04\x22\x4d\x18", UnsupportedError, f"is compressed with lz4: {_UNPACK}"),
    (0, b"LZIP\1", UnsupportedError, f"is compressed with lzip: {_UNPACK}"),
    (0, b"\xff\6\0\0sNaPpY", UnsupportedError, f"is compressed with snappy: {_UNPACK}"),
    (0, b"\x1f\x9d", UnsupportedError, f"is compressed with compress (.Z): {_UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", UnsupportedError, f"is a 7z archive: {_UNPACK}"),
    (0, b"Rar!", UnsupportedError, f"is a RAR archive: {_UNPACK}"),
    (0, b"MSCF\0", UnsupportedError, f"is a cabinet archive: {_UNPACK}"),
    (0, b"!<arch>\n", UnsupportedError, "is an ar archive (a library or a Debian package), and no checkpoint"),
    (0, b"hsqs", UnsupportedError, "is a squashfs image: mount it and open the file in it"),
    (0, b"Salted__", UnsupportedError, "is encrypted by openssl: decrypt it first"),
    (0, b"age-encryption.org", UnsupportedError, "is encrypted by age: decrypt it first"),
    (0, b"-----BEGIN PGP", UnsupportedError, "is encrypted or signed by PGP: decrypt it first"),
    # Models and tables of other programs.
    (0, b"PYTORCH1", UnsupportedError, "is a preview archive of torch 1.0, which torch itself no longer reads"),
    (0, b"GGUF", UnsupportedError, "is a GGUF file (llama.cpp): use the gguf package"),
    (0, b"lmgg", UnsupportedError, "is a GGML file of llama.cpp before GGUF: convert it with llama.cpp"),
    (0, b"fmgg", UnsupportedError, "is a GGML file of llama.cpp before GGUF: convert it with llama.cpp"),
    (0, b"tjgg", UnsupportedError, "is a GGML file of llama.cpp before GGUF: convert it with llama.cpp"),
    (0, b"\x89HDF\r\n\x1a\n", UnsupportedError, "is an HDF5 file (Keras?): use h5py"),
    (4, b"TFL3", UnsupportedError, "is a TensorFlow Lite model: use its interpreter"),
    (4, b"PTMF", UnsupportedError, "is a PyTorch mobile model (.ptl): load it with torch and save its state_dict()"),
    (4, b"ET12", UnsupportedError, "is an ExecuTorch program (.pte): use the checkpoint that it was made of"),
    (0, b"ftrt", UnsupportedError, "is a TensorRT engine: use the checkpoint that it was made of"),
    (-8, b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", UnsupportedError,
     "is the index of a TensorFlow checkpoint: use tf.train.load_checkpoint"),
    (0, b"\x12\1\0\0\0\0\0\0\0\0\0\0\0\0\0\0", UnsupportedError, "is an MXNet file of arrays: use mxnet.nd.load"),
    (0, b"7767517\n", UnsupportedError, "is the network of an ncnn model, whose weights stand in its .bin"),
    (0, b"MATLAB 5.0 MAT-file", UnsupportedError, "is a MATLAB file: use scipy.io.loadmat"),
    (0, b"ARROW1\0\0", UnsupportedError, "is an Arrow file: use pyarrow"),
    (0, b"PAR1", UnsupportedError, "is a Parquet file: use pyarrow"),
    (0, b"SQLite format 3\0", UnsupportedError, "is an SQLite database"),
    (0, b"\x7fELF", UnsupportedError, "is a program or library (ELF), and no checkpoint"),
    # What is not even a model.
    (0, b"\x89PNG", UnknownFormatError, "is a PNG image"),
    (0, b"\xff\xd8\xff", UnknownFormatError, "is a JPEG image"),
    (0, b"GIF8", UnknownFormatError, "is a GIF image"),
    (0, b"%PDF", UnknownFormatError, "is a PDF document"),
    (-22, b"PK\5\6", UnknownFormatError,
     "ends as a zip archive does and does not begin as one: its first bytes are damaged, or something was put before"
     " them; fetch it again"),
)  # fmt: skip

# (pattern, error, what): of the beginning, without blanks; {} is what the pattern's group found.
TEXTS: tuple[tuple[bytes, type[FastloadError], str], ...] = (
    (rb"(?is)(?:<\?xml[^>]*>\s*)?<error\b.*?<code>([\w .-]+)</code>", UnknownFormatError,
     f"is an error message of an object store ({{}}): {_FAILED}; check the address and your rights"),
    (rb"(?i)(?:<\?xml[^>]*>\s*)?(?:<!doctype html|<html|<head|<body|<script|<!--)", UnknownFormatError,
     "is a page of HTML: the download got an error or login page instead of the file"),
    (rb"(?is)<\?xml[^>]*>\s*<net\b|<net name=", UnsupportedError,
     "is the network of an OpenVINO model, whose weights stand in its .bin"),
    (rb"(?i)<\?xml", UnknownFormatError, "is XML, and no checkpoint"),
    (rb"(?is)\{\s*\"(?:error|errors|message|detail|status|statuscode|code)\"\s*:\s*(.{1,200})", UnknownFormatError,
     f"is JSON that tells of an error, {{}}: {_FAILED}; check the address and your rights"),
    (rb"(?is)\{.{0,400}\"(?:added_tokens|truncation|add_bos_token|tokenizer_class)\"\s*:", UnsupportedError,
     "is the configuration of a tokeniser, and holds no tensors"),
    (rb"(?is)\{.{0,400}\"(?:architectures|model_type|transformers_version|_class_name)\"\s*:", UnsupportedError,
     "is the configuration of a model: its tensors stand in a file beside it"),
    (rb"(?is)\{.{0,400}\"nbformat\"\s*:|\{\s*\"cells\"\s*:", UnsupportedError, "is a notebook, and no checkpoint"),
    (rb"(?i)((?:error[: ]+)?(?:(?:entry|repository|revision|file|page|404:?|403:?|401:?) )*"
     rb"(?:not found|forbidden|unauthori[sz]ed|access denied|access to model .{1,120}|invalid username .{1,60}"
     rb"|too many requests|bad gateway|service unavailable|internal server error)[.!]?)\s*", UnknownFormatError,
     f"is the text {{}}: {_FAILED}; check the address and your rights"),
    (rb"#version: 0\.", UnsupportedError, "is the list of merges of a tokeniser, and holds no tensors"),
    (rb"(?s)\x0a.\x0a.<(?:unk|pad|s|/s|mask)>", UnsupportedError, "is a SentencePiece tokeniser, and holds no tensors"),
    (rb"(?:<\|?(?:pad|unk|s|endoftext)\|?>|\[(?:PAD|UNK)\])\r?\n", UnsupportedError,
     "is the vocabulary of a tokeniser, and holds no tensors"),
    (rb"#!\s*/", UnsupportedError, "is a script, and no checkpoint"),
    (rb"(?:import|from) [\w.]+(?: import | as |\s*\n)|# -\*- coding|(?:class|def) \w+\(", UnsupportedError,
     "is Python source, and no checkpoint: run it to make one"),
    (rb"---\r?\n\w+:", UnsupportedError, "is YAML or a model card, and no checkpoint"),
    (rb"(?s)MZ.{50,400}DOS mode", UnsupportedError, "is a Windows program, and no checkpoint"),
    (rb"(?s)\x08\x01\x12.", UnsupportedError,
     "looks like the graph of a TensorFlow SavedModel, whose tensors stand in its folder variables"),
    (rb"(?s)\x08[\x02-\x20][\x12\x1a\x3a]", UnsupportedError,
     "looks like an ONNX or Core ML model: use the onnx package or coremltools"),
    (rb"(?s)(?:[\x81-\x8f]|\xde..)[\xa1-\xbf][\x20-\x7e]", UnsupportedError,
     "looks like MessagePack (Flax, or Burn's NamedMpk recorder): save it anew as safetensors"),
)  # fmt: skip

# (pattern of a record's name, what): what a zip archive that is no PyTorch file is told by. Its group is what can be
# opened in the archive, and {} the argument that names that.
RECORDS: tuple[tuple[str, str], ...] = (
    (r"model\.weights\.h5", "is a Keras 3 model: unpack it, and use h5py for its model.weights.h5"),
    (r".*\.mlmodel|.*\.mlpackage/.*", "holds a Core ML model: use coremltools"),
    (r"word/document\.xml|xl/workbook\.xml|ppt/presentation\.xml", "is an Office document"),
    (r"META-INF/MANIFEST\.MF", "is a Java archive"),
    (r"[^/]+\.dist-info/WHEEL", "is a Python wheel: name the checkpoint in it, as {}"),
    (r"(?:.*/)?saved_model\.pb", "holds a TensorFlow SavedModel"),
    (r"(?:.*/)?variables\.index", "holds a TensorFlow checkpoint: use tf.train.load_checkpoint"),
    (r".*\.onnx", "holds an ONNX model: use the onnx package"),
    (r"(?:.*/)?\.zarray|(?:.*/)?zarr\.json", "is a zarr archive: use the zarr package"),
    (
        r"(.*\.(?:safetensors|bin)\.index\.json)",
        "is a zip archive that holds the index of a sharded checkpoint: open it with {}",
    ),
    (
        r"(.+)/[^/]*-[0-9]+-of-[0-9]+\.[a-z]+",
        "is a zip archive that holds a sharded checkpoint: open it with {}",
    ),
    (r"(.*\.(?:safetensors|pt|pth|ckpt|bin|bpk))", "is a zip archive that holds a checkpoint: open it with {}"),
)


def refuse(head: bytes, tail: bytes) -> None:
    """Raise what is known of a file that begins with *head* and ends with *tail*, if anything is."""
    for place, mark, error, what in MARKS:
        if head.startswith(mark, place) if place >= 0 else tail[place:].startswith(mark):
            raise error(what)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    # Blanks may be part of a mark, as of the one that is a line feed.
    for pattern, error, what in TEXTS:
        match = re.match(pattern, text) or re.match(pattern, head)
        if match:
            raise error(what.format(*map(_quoted, match.groups())))


def refuse_archive(names: list[str]) -> None:
    """Raise what is known of a zip archive with the records *names*, if anything is."""
    for pattern, what in RECORDS:
        for name in names:
            match = re.fullmatch(pattern, name)
            if match:
                raise _refusal(what, match[1] if match.groups() else None)


def _refusal(what: str, member: str | None) -> UnsupportedError:
    if "{}" not in what:
        return UnsupportedError(what)
    problem, colon, way_out = what.partition(": ")
    advice = Advice(colon + way_out, "member", None if member is None or len(member) > MAX_QUOTED else member)
    return advised(UnsupportedError(f"{problem}{advice}"), advice)


def unknown(head: bytes) -> UnknownFormatError:
    """What to say of a file that begins with *head*, of which nothing is known."""
    if not any(head):
        return UnknownFormatError(
            f"begins with {len(head):,} zeros: the download was interrupted after its space was reserved, or the disk"
            " lost it; fetch it again"
        )
    if not re.search(rb"[^\t\n\r\x20-\x7e\x80-\xff]", head) and _is_utf8(head):
        return UnknownFormatError(f"is text, and no checkpoint; it begins with {_quoted(head)}")
    return UnknownFormatError(f"is of no format that fastload knows; it begins with {head[:8].hex(' ')}")


def _is_utf8(head: bytes) -> bool:
    try:
        head.decode()
    except UnicodeDecodeError as error:
        return error.start > len(head) - 4  # a character may have been cut at the end of the head
    return True


def _quoted(data: bytes) -> str:
    """The file's own words, on one line."""
    return repr(" ".join(data.decode("utf-8", "replace").split())[:MAX_QUOTED])
