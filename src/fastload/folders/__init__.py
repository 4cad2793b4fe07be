"""Checkpoints of several files: a folder, or the index of a sharded checkpoint."""

from __future__ import annotations

import os

from fastload import formats
from fastload.errors import FastloadError, located
from fastload.options import Options
from fastload.source import Source
from fastload.tensors import Tensors, open_source

__all__ = ["open_path"]


def open_path(path: str, options: Options) -> Tensors:
    """The tensors of a file, of a folder, or of the files that an index names."""
    # What many files need is imported where there are many: most checkpoints are one.
    if os.path.isdir(path):
        from fastload.folders.folder import open_folder

        try:
            return open_folder(path, options)
        except FastloadError as error:
            raise located(error, path) from None
    source = Source.of(path, options.io)
    if formats.is_shard_index(source):
        from fastload.folders.sharded import open_index
        from fastload.folders.weight_map import read_weight_map

        return open_index(path, source, read_weight_map(source), options)
    return open_source(source, options)
