"""The table at the end of a translated module, which the driver stand-in reads."""

from __future__ import annotations

from collections.abc import Sequence

_DECLARED = """extern "C" {
extern const Kernel emu_kernels[];
extern const Global emu_globals[];
extern const uint32_t emu_kernel_count, emu_global_count, emu_target;
}
"""


def table(kernels: Sequence[str], fixed: Sequence[str], target: int) -> str:
    """The C++ of a table.

    Args:
        kernels: initialisers of `emu::Kernel`.
        fixed: initialisers of `emu::Global`: arrays of the module.
        target: 90 for "sm_90".
    """
    return _DECLARED + (
        f"const Kernel emu_kernels[] = {{{', '.join([*kernels, '{}'])}}};\n"
        f"const uint32_t emu_kernel_count = {len(kernels)};\n"
        f"const Global emu_globals[] = {{{', '.join([*fixed, '{}'])}}};\n"
        f"const uint32_t emu_global_count = {len(fixed)};\n"
        f"const uint32_t emu_target = {target};\n"
    )
