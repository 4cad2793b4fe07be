"""What PyInstaller is to do for fastload: take all of its modules, and none of the libraries that it merely knows.

An application that has torch, JAX or rich names them itself.
"""

from PyInstaller.utils.hooks import collect_data_files, collect_submodules

hiddenimports = collect_submodules("fastload", filter=lambda name: not name.startswith("fastload._pyinstaller"))
datas = collect_data_files("fastload", includes=["page/*"])  # the parts of `fastload report`
excludedimports = ["jax", "rich", "torch"]
