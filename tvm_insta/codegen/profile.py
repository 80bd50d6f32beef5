"""Counters of the time in each kernel, for ``compile --profile``; without it no trace of them.

The plain-C form reads the clock between two kernel calls of its driver. In the vm form each kernel
reads it where it begins and ends, and notes its time in a table beside the kernels.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from string import Template

import tvm
from tvm import s_tir, tirx

from tvm_insta.codegen.program import CodegenError, Program

_C_HEADER = """\
typedef struct ${prefix}_kernel_time {
  const char *symbol;   /* the kernel's name */
  uint64_t nanoseconds; /* of all images of the batch, by the clock; an observer's time counts */
} ${prefix}_kernel_time;

/* The time that each kernel took in the last run, in the order of the calls: ${PREFIX}_KERNEL_CALLS
 * entries, whose number goes to *count (which may be NULL). The memory is the library's, and good
 * until the next run. Not to be called during a run. */
const ${prefix}_kernel_time *${prefix}_profile(int32_t *count);

"""
_C_BEFORE = "#define _POSIX_C_SOURCE 200809L\n"
_C_CODE = """\
#include <time.h>

static ${prefix}_kernel_time times[] = {
${entries}
};

static uint64_t nanoseconds(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Add the time since `before` to that of a kernel call; returns the time now. */
static uint64_t passed(int32_t call, uint64_t before) {
  const uint64_t now = nanoseconds();
  times[call].nanoseconds += now - before;
  return now;
}

const ${prefix}_kernel_time *${prefix}_profile(int32_t *count) {
  if (count != NULL) *count = ${PREFIX}_KERNEL_CALLS;
  return times;
}

"""
_C_CLEAR = (
    "  for (int32_t call = 0; call < ${PREFIX}_KERNEL_CALLS; call++) times[call].nanoseconds = 0;\n"
)


def c_fields(program: Program, name: str, *, profile: bool) -> dict[str, str]:
    """What the templates of the plain-C driver take; empty texts without `profile`."""
    parts = {
        "profile_header": _C_HEADER,
        "profile_before": _C_BEFORE,
        "profile_code": _C_CODE,
        "profile_clear": _C_CLEAR,
    }
    if not profile:
        return dict.fromkeys(parts, "")
    entries = ",\n".join(f'  {{"{call.symbol}", 0}}' for call in program.calls)
    fields = {"prefix": name, "PREFIX": name.upper(), "entries": entries}
    return {key: Template(text).substitute(fields) for key, text in parts.items()}


def c_statements(statements: Iterable[str]) -> list[str]:
    """The statements of each call in the driver, with the clock read before and after."""
    found = ["  uint64_t before = nanoseconds();"]
    for call, statement in enumerate(statements):
        found += [statement, f"  before = passed({call}, before);"]
    return [*found, "  (void)before;"]


def instrumented(mod: tvm.IRModule, program: Program, name: str) -> tvm.IRModule:
    """The kernels of the vm form, each noting its time with the functions of `table`.

    Args:
        mod: scheduled PrimFuncs.
        program: what calls them.
        name: prefix of the C functions.

    Raises:
        CodegenError: a kernel is no scheduled PrimFunc.
    """
    result = tvm.IRModule(dict(mod.functions), attrs=mod.attrs)
    for number, symbol in enumerate(_symbols(program)):
        variable = mod.get_global_var(symbol)
        function = mod[variable]
        realize = function.body
        if not isinstance(realize, s_tir.SBlockRealize):
            raise CodegenError(
                f"kernel {symbol} has no root block to time; compile without --profile"
            )
        root = realize.block
        steps = [
            tirx.Evaluate(tirx.call_extern("int32", f"{name}_kernel_begin")),
            root.body,
            tirx.Evaluate(tirx.call_extern("int32", f"{name}_kernel_end", number)),
        ]
        block = s_tir.SBlock(
            root.iter_vars,
            root.reads,
            root.writes,
            root.name_hint,
            tirx.SeqStmt(steps),
            root.init,
            root.alloc_buffers,
            root.match_buffers,
            root.annotations,
        )
        body = s_tir.SBlockRealize(realize.iter_values, realize.predicate, block)
        result.update_func(variable, function.with_body(body))
    return result


def table(program: Program, name: str, folder: Path) -> Path:
    """Write the C source of the vm form's table of times into `folder`; returns its path."""
    text = resources.files("tvm_insta.codegen").joinpath("profile.c.in").read_text("utf-8")
    symbols = ", ".join(f'"{symbol}"' for symbol in _symbols(program))
    fields = {"name": name, "calls": str(len(program.calls)), "symbols": symbols}
    path = folder / f"{name}_profile.c"
    path.write_text(Template(text).substitute(fields), "utf-8")
    return path


def _symbols(program: Program) -> list[str]:
    return sorted({call.symbol for call in program.calls})
