"""The C statements of a planned program: one kernel after the other, parallel loops as tasks."""

from __future__ import annotations

from tvm_insta.codegen.plan import Place, Plan
from tvm_insta.codegen.program import KernelCall, Ref


def prototypes(plan: Plan, name: str) -> str:
    """The kernels, as LLVM compiled them."""
    lines: dict[str, None] = {}
    for at, call in enumerate(plan.program.calls):
        kernel = plan.kernel(at)
        scratch = len(kernel.shared) + len(kernel.own)
        tensors = len(call.args) + len(_outputs(plan, at, call))
        pointers = ["const void *"] * (tensors + scratch)
        for part in kernel.parts:
            types = pointers if part.extent is None else [*pointers, "int32_t", "int32_t"]
            lines[f"int32_t {name}_{part.symbol}({', '.join(types)});"] = None
    return "\n".join(lines)


def _pointer(plan: Plan, ref: Ref) -> str:
    if ref.kind == "input":
        return f"memory->in{ref.index}"
    if ref.kind == "constant":
        return f"weights + {plan.constants[ref.index].offset}"
    if ref == plan.program.result:
        return "memory->out"
    return place(plan.values[ref.index])


def place(where: Place) -> str:
    """A place in the arena."""
    return f"arena + {where.offset}"


def _outputs(plan: Plan, at: int, call: KernelCall) -> list[Ref]:
    """The outputs that have a pointer of their own: not one that is written over an argument."""
    over = plan.overwrites[at]
    return [
        Ref("value", index)
        for number, index in enumerate(call.outputs)
        if over is None or number != over.output
    ]


def _arguments(plan: Plan, at: int, call: KernelCall) -> list[str]:
    """What every part of a call takes, but for the scratch memory of the thread."""
    arguments = [_pointer(plan, ref) for ref in (*call.args, *_outputs(plan, at, call))]
    return arguments + [place(where) for where in plan.shared[at]]


def tasks(plan: Plan, name: str, at: int, call: KernelCall) -> str:
    """One function for each parallel loop of a call, as a thread runs it."""
    text = ""
    for number, part in enumerate(plan.kernel(at).parts):
        if part.extent is None:
            continue
        arguments = _arguments(plan, at, call)
        arguments += [f"own + {offset}" for offset in plan.own_offsets(at)]
        text += (
            f"static void {_task_name(at, number)}(const void *image, int32_t begin, int32_t end, "
            "unsigned char *own) {\n"
            "  const image_memory *const memory = image;\n"
            f"  {name}_{part.symbol}({', '.join([*arguments, 'begin', 'end'])});\n"
            "  (void)memory;\n"
            "  (void)own;\n"
            "}\n\n"
        )
    return text


def _task_name(at: int, number: int) -> str:
    return f"call{at}_part{number}"


def statements(plan: Plan, name: str, at: int, call: KernelCall) -> str:
    """The statements that run one kernel and show what it wrote to the observer."""
    lines = []
    own = place(plan.own[at])
    offsets = plan.own_offsets(at)
    for number, part in enumerate(plan.kernel(at).parts):
        if part.extent is None:
            arguments = _arguments(plan, at, call)
            arguments += [f"{own} + {offset}" for offset in offsets]
            lines.append(f"  {name}_{part.symbol}({', '.join(arguments)});")
        else:
            lines.append(f"  launch({_task_name(at, number)}, memory, {part.extent}, {own});")
    shows = [
        f'show(image, {at}, {number}, "{call.symbol}", {_pointer(plan, Ref("value", index))}, '
        f"{plan.values[index].size}u);"
        for number, index in enumerate(call.outputs)
    ]
    if len(shows) == 1:
        lines.append(f"  if (observer != NULL) {shows[0]}")
    else:
        lines += ["  if (observer != NULL) {", *(f"    {show}" for show in shows), "  }"]
    return "\n".join(lines)
