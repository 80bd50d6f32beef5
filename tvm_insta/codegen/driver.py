"""Write the C driver of a planned program: `<name>.h`, `<name>.c` and the weights.

The C text lives in `model.h.in` and `model.c.in`; this file fills in what depends on the program.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from string import Template

from tvm_insta.codegen import calls, cpu_check
from tvm_insta.codegen import profile as timers
from tvm_insta.codegen.plan import ALIGNMENT, Plan
from tvm_insta.codegen.program import CodegenError, Program, TensorSpec
from tvm_insta.runtime.manifest_checks import MOST_LETTERS, NAME_RULE, is_name

_C_TYPES = {
    "float32": "float",
    "float64": "double",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "uint16": "uint16_t",
    "int32": "int32_t",
    "uint32": "uint32_t",
    "int64": "int64_t",
    "uint64": "uint64_t",
    "bool": "uint8_t",
}


MAX_THREADS = 256


@dataclass(frozen=True)
class DriverFiles:
    """The generated C sources, the public header and the weights that `source` embeds."""

    source: Path
    threads: Path
    header: Path
    weights: Path


def write_driver(
    plan: Plan,
    name: str,
    arch: str,
    needs: tuple[str, ...],
    folder: Path,
    *,
    profile: bool = False,
) -> DriverFiles:
    """Write the driver for `plan` into `folder`; `name` prefixes every public C name.

    With `profile` it counts the time of each kernel.

    Raises:
        CodegenError: if `name` is no C identifier, or an input or the output has a dtype that C
            has no type for.
    """
    check_name(name)
    fields = _fields(plan, name, arch, needs, profile=profile)
    ends = (".c", "_threads.c", ".h", ".weights")
    files = DriverFiles(*(folder / f"{name}{end}" for end in ends))
    files.weights.write_bytes(plan.blob)
    for path, template in (
        (files.source, "model.c.in"),
        (files.threads, "threads.c.in"),
        (files.header, "model.h.in"),
        (folder / f"{name}_pool.h", "pool.h.in"),
    ):
        text = resources.files("tvm_insta.codegen").joinpath(template).read_text("utf-8")
        path.write_text(Template(text).substitute(fields), "utf-8")
    return files


def check_name(name: str) -> None:
    """Refuse a name that cannot prefix C functions, or that no manifest may have."""
    if not is_name(name):
        shown = repr(name) if len(name) <= MOST_LETTERS else f"{name[:16]!r}... ({len(name)} long)"
        raise CodegenError(f"the name {shown} cannot prefix C functions; use {NAME_RULE}")


def public_symbols(name: str, *, profile: bool = False) -> tuple[str, ...]:
    """The functions that `<name>.so` exports."""
    ends = "init run error missing_feature input_shape output_shape set_observer weights_sha256"
    ends += " set_threads input_dtype output_dtype" + " profile" * profile
    return tuple(f"{name}_{end}" for end in ends.split())


def _fields(
    plan: Plan, name: str, arch: str, needs: tuple[str, ...], *, profile: bool
) -> dict[str, str]:
    program = plan.program
    inputs = [
        _identifier(f"input{i}" if len(program.inputs) > 1 else "input", i)
        for i in range(len(program.inputs))
    ]
    output = program.output
    in_types = [_c_type(spec) for spec in program.inputs]
    run = [f"const {kind} *{var}" for kind, var in zip(in_types, inputs, strict=True)]
    run += [f"{_c_type(output)} *output", "int32_t batch"]
    sizes = [spec.nbytes for spec in program.inputs]
    statements = [calls.statements(plan, name, at, each) for at, each in enumerate(program.calls)]
    if profile:
        statements = timers.c_statements(statements)
    return {
        **timers.c_fields(program, name, profile=profile),
        "name": name,
        "prefix": name,
        "PREFIX": name.upper(),
        "alignment": str(ALIGNMENT),
        "input_count": str(len(inputs)),
        "size_macros": _size_macros(name.upper(), program),
        "arena_bytes": str(plan.arena_bytes),
        "weight_bytes": str(len(plan.blob)),
        "weights_sha256": hashlib.sha256(plan.blob).hexdigest(),
        "call_count": str(len(program.calls)),
        "pointer_docs": _pointer_docs(inputs, program),
        "run_parameters": ", ".join(run),
        "run_arguments": ", ".join([*inputs, "output", "batch"]),
        "max_threads": str(MAX_THREADS),
        "thread_bytes": str(plan.thread_bytes),
        "memory_fields": "\n".join(
            [
                *(f"  const unsigned char *in{i};" for i in range(len(inputs))),
                "  unsigned char *out;",
            ]
        ),
        "image_arguments": ", ".join([*(f"in{i}" for i in range(len(inputs))), "out"]),
        "cpu_code": cpu_check.c_code(arch, needs),
        "permission_code": cpu_check.permission_code(needs),
        "prototypes": calls.prototypes(plan, name),
        "tasks": "".join(
            calls.tasks(plan, name, at, each) for at, each in enumerate(program.calls)
        ),
        "calls": "\n".join(statements),
        "null_test": " || ".join(f"{var} == NULL" for var in [*inputs, "output"]),
        "largest_image": str(max(*sizes, output.nbytes, 1)),
        "pointer_tests": _pointer_tests(name.upper(), inputs, program.inputs, output),
        "image_setup": _image_setup(plan, inputs),
        "image_finish": _image_finish(plan),
        "input_shape_tables": _shape_tables(program.inputs),
        "output_shape": ", ".join(str(dim) for dim in output.shape) or "0",
        "output_rank": str(len(output.shape)),
        "input_dtypes": ", ".join(f'"{spec.dtype}"' for spec in program.inputs),
        "output_dtype": output.dtype,
    }


def _identifier(name: str, index: int) -> str:
    return re.sub(r"\W", "_", name) or f"input{index}"


def _c_type(spec: TensorSpec) -> str:
    if spec.dtype not in _C_TYPES:
        raise CodegenError(
            f"{spec.name} has dtype {spec.dtype}; the C interface takes {', '.join(_C_TYPES)}"
        )
    return _C_TYPES[spec.dtype]


def _elements(spec: TensorSpec) -> int:
    count = 1
    for dim in spec.shape:
        count *= int(dim)
    return count


def _size_macros(upper: str, program: Program) -> str:
    inputs, parts = program.inputs, program.parts
    lines = ["/* Elements of one image (multiply by the batch), and their type. */"]
    for index, spec in enumerate(inputs):
        label = "INPUT" if len(inputs) == 1 else f"INPUT{index}"
        lines.append(f"#define {upper}_{label}_ELEMENTS {_elements(spec)}u")
        lines.append(f"#define {upper}_{label}_TYPE {_c_type(spec)}")
    lines.append(f"#define {upper}_OUTPUT_ELEMENTS {_elements(program.output)}u")
    lines.append(f"#define {upper}_OUTPUT_TYPE {_c_type(program.output)}")
    if parts:
        lines.append("/* Where each output begins among the elements of an image. */")
        lines.append(f"#define {upper}_OUTPUT_COUNT {len(parts)}")
    first = 0
    for index, spec in enumerate(parts):
        lines.append(f"#define {upper}_OUTPUT{index}_FIRST {first}u")
        lines.append(f"#define {upper}_OUTPUT{index}_ELEMENTS {_elements(spec)}u")
        first += _elements(spec)
    return "\n".join(lines)


def _pointer_docs(names: list[str], program: Program) -> str:
    lines = [
        f" * {name}: {_described(spec, 'batch')}."
        for name, spec in zip(names, program.inputs, strict=True)
    ]
    if not program.parts:
        return "\n".join([*lines, f" * output: {_described(program.output, 'batch')}."])
    whole = f"[batch, {_elements(program.output)}] {program.output.dtype}"
    lines.append(f" * output: {whole}: of each image, one behind the other,")
    lines += [f" *   {_described(spec)};" for spec in program.parts]
    return "\n".join(lines)


def _described(spec: TensorSpec, *batch: str) -> str:
    dims = ", ".join([*batch, *(str(dim) for dim in spec.shape[1:])])
    return f"[{dims}] {spec.dtype} ({spec.name} of the network), C order"


def _pointer_tests(
    upper: str, names: list[str], inputs: tuple[TensorSpec, ...], output: TensorSpec
) -> str:
    lines = []
    for name, spec in zip([*names, "output"], [*inputs, output], strict=True):
        kind = _c_type(spec)
        lines.append(f"  if (!aligned({name}, _Alignof({kind}))) return {upper}_ERROR_ALIGNMENT;")
    for name, spec in zip(names, inputs, strict=True):
        lines.append(
            f"  if (overlap({name}, count * {spec.nbytes}u, output, count * "
            f"{output.nbytes}u)) return {upper}_ERROR_OVERLAP;"
        )
    return "\n".join(lines)


def _image_setup(plan: Plan, names: list[str]) -> str:
    lines = []
    for index, (name, place) in enumerate(zip(names, plan.inputs, strict=True)):
        lines += [
            f"    const unsigned char *in{index} = (const unsigned char *){name} + "
            f"(size_t)image * {place.size}u;",
            f"    if (!aligned(in{index}, {ALIGNMENT})) "
            f"in{index} = memcpy({calls.place(place)}, in{index}, {place.size}u);",
        ]
    size, place = plan.output.size, plan.output
    lines += [
        f"    unsigned char *const user = (unsigned char *)output + (size_t)image * {size}u;",
        f"    unsigned char *const out = aligned(user, {ALIGNMENT}) ? user : {calls.place(place)};",
    ]
    return "\n".join(lines)


def _image_finish(plan: Plan) -> str:
    return f"    if (out != user) memcpy(user, out, {plan.output.size}u);"


def _shape_tables(inputs: tuple[TensorSpec, ...]) -> str:
    lines = []
    for index, spec in enumerate(inputs):
        dims = ", ".join(str(dim) for dim in spec.shape) or "0"
        lines.append(f"  static const int32_t shape{index}[] = {{{dims}}};")
    tables = ", ".join(f"shape{index}" for index in range(len(inputs)))
    ranks = ", ".join(str(len(spec.shape)) for spec in inputs)
    lines.append(f"  static const int32_t *const shapes[] = {{{tables}}};")
    lines.append(f"  static const int32_t ranks[] = {{{ranks}}};")
    return "\n".join(lines)
