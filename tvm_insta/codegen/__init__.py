"""From a scheduled Relax module to an artefact: the plain-C form and the vm form.

- `c_form(mod, target, out_dir, name)`: `<name>.so`, `<name>.a`, `<name>.h`.
- `vm_form(mod, target, out_dir, name)`: `<name>.so` for the Relax VM.
- `staged(folder)`: a folder that appears complete or not at all.
- `kernel_table(program)`: what the manifest says about the kernels.
"""

from __future__ import annotations

from tvm_insta.codegen.kernels import kernel_table
from tvm_insta.codegen.plain_c import CForm, c_form
from tvm_insta.codegen.program import CodegenError, Program, extract
from tvm_insta.codegen.relax_vm import VmForm, vm_form
from tvm_insta.codegen.staging import staged

__all__ = [
    "CForm",
    "CodegenError",
    "Program",
    "VmForm",
    "c_form",
    "extract",
    "kernel_table",
    "staged",
    "vm_form",
]
