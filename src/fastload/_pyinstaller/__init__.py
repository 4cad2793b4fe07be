"""Tells PyInstaller where the hook is that makes frozen programs find all of fastload."""

from __future__ import annotations

import os

__all__ = ["get_hook_dirs"]


def get_hook_dirs() -> list[str]:
    """The folders of hooks, as the entry point `pyinstaller40` asks for them."""
    return [os.path.dirname(__file__)]
