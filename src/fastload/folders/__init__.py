"""Checkpoints of several files: a folder, or the index of a sharded checkpoint."""

from __future__ import annotations

import os

from fastload.folders import dcp
from fastload.options import Options
from fastload.source import Source
from fastload.tensors import Tensors, open_source

__all__ = ["open_path"]


def open_path(path: str, options: Options) -> Tensors:
    """The tensors of a file or folder."""
    if os.path.isfile(os.path.join(path, dcp.METADATA)):
        return dcp.open_folder(path, options)
    return open_source(Source.of(path, options.io), options)
