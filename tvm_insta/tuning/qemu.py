"""QEMU's user emulation and the plugin that counts the instructions of a program."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tvm_insta.errors import ToolchainError
from tvm_insta.target import parse
from tvm_insta.target.toolchain import find_linker

_PLUGIN = Path(__file__).with_name("icount_plugin.c")
_VERSIONS = range(1, 7)  # of QEMU's plugin interface that may be tried


def count_plugin(emulator: str, folder: Path) -> Path:
    """Compile the plugin for the version of the interface that an emulator speaks.

    Args:
        emulator: path of a program of `EMULATORS`.
        folder: where the library is kept.

    Raises:
        ToolchainError: there is no C compiler, or the emulator loads no version.
    """
    compiler = find_linker(parse("llvm"))
    said = ""
    for version in _VERSIONS:
        library = folder / f"icount{version}.so"
        compiler.link_shared([_PLUGIN], library, "-O2", f"-DPLUGIN_VERSION={version}")
        # It is loaded before the program is opened: any file that exists shows whether it can be.
        done = subprocess.run(
            [emulator, "-plugin", f"{library},out={folder / 'probe'}", os.devnull],
            capture_output=True,
            text=True,
            check=False,
        )
        said = (done.stdout + done.stderr).strip()
        if "plugin" not in said.lower():
            return library
    raise ToolchainError(
        f"{emulator} takes no plugin ({said.splitlines()[-1]}): counting instructions needs QEMU "
        "4.2 or later, built with plugins"
    )
