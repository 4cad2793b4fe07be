"""What PyInstaller is to do for fastload: take all of its modules, and none of the libraries that it merely knows.

An application that has torch, JAX or rich names them itself.
"""

from PyInstaller.utils.hooks import collect_submodules

hiddenimports = collect_submodules("fastload", filter=lambda name: not name.startswith("fastload._pyinstaller"))
excludedimports = ["jax", "rich", "torch"]
