"""What the lanes of a warp do together: shuffles, votes, matrices."""

from __future__ import annotations

from tvm_insta.cuda_emulator.ptx.emit import Emitter, rule
from tvm_insta.cuda_emulator.ptx.integers import Found, Operands
from tvm_insta.cuda_emulator.ptx.syntax import Operand, Pair

_FULL = "0xffffffffu"
# Shape and types of an mma to how two words of 32 bits are multiplied, and operand words.
_MATRICES = {
    "m16n8k256.row.col.s32.b1.b1.s32.and.popc": ("mma_16x8<dot_and, 2>", (4, 4, 2, 4)),
    "m16n8k256.row.col.s32.b1.b1.s32.xor.popc": ("mma_16x8<dot_xor, 2>", (4, 4, 2, 4)),
    "m16n8k128.row.col.s32.b1.b1.s32.and.popc": ("mma_16x8<dot_and, 1>", (4, 2, 1, 4)),
    "m16n8k128.row.col.s32.b1.b1.s32.xor.popc": ("mma_16x8<dot_xor, 1>", (4, 2, 1, 4)),
    "m16n8k32.row.col.s32.s8.s8.s32": ("mma_16x8<dot_s8, 2>", (4, 4, 2, 4)),
    "m16n8k32.row.col.s32.u8.s8.s32": ("mma_16x8<dot_u8s8, 2>", (4, 4, 2, 4)),
    "m16n8k16.row.col.s32.s8.s8.s32": ("mma_16x8<dot_s8, 1>", (4, 2, 1, 4)),
}


def _give(words: list[str]) -> str:
    return " ".join(f"t.warp->in[t.lane][{i}] = {word};" for i, word in enumerate(words))


@rule(r"bar\.warp\.sync", 1)
def _warp_barrier(e: Emitter, _: Found, ops: Operands) -> str:
    return f"meet(t, {e.value(ops[0], 'u32')}, {e.line}, nothing);"


@rule(r"shfl\.sync\.(?P<mode>up|down|bfly|idx)\.b32", 5)
def _shuffle(e: Emitter, found: Found, ops: Operands) -> str:
    first, second = (ops[0].first, ops[0].second) if isinstance(ops[0], Pair) else (ops[0], None)
    code = _give([e.value(op, "u32") for op in ops[1:4]])
    mask = e.value(ops[4], "u32")
    code += f" meet(t, {mask}, {e.line}, shuffle_{found['mode']}); "
    code += e.store(first, "b32", "t.warp->out[t.lane][0]")
    if second is not None:
        code += e.store(second, "pred", "t.warp->out[t.lane][1] != 0")
    return code


@rule(r"vote\.sync\.(?P<mode>ballot\.b32|any\.pred|all\.pred|uni\.pred)", 3)
def _vote(e: Emitter, found: Found, ops: Operands) -> str:
    code = _give([e.value(ops[1], "pred")])
    name, _, kind = found["mode"].partition(".")
    code += f" meet(t, {e.value(ops[2], 'u32')}, {e.line}, vote_{name}); "
    result = "t.warp->out[t.lane][0]"
    return code + e.store(ops[0], kind, result if kind == "b32" else f"{result} != 0")


@rule(r"redux\.sync\.(?P<op>add|min|max|and|or|xor)\.(?P<kind>[bus]32)", 3)
def _redux(e: Emitter, found: Found, ops: Operands) -> str:
    op, kind = found["op"], found["kind"]
    if (op in ("and", "or", "xor")) != (kind == "b32"):
        raise e.refuse(f"the instruction {found[0]} is not known to the emulator")
    sign = "_signed" if op in ("min", "max") and kind == "s32" else ""
    code = _give([e.value(ops[1], "u32")])
    code += f" meet(t, {e.value(ops[2], 'u32')}, {e.line}, reduce_{op}{sign}); "
    return code + e.store(ops[0], "u32", "t.warp->out[t.lane][0]")


@rule(r"mma\.sync\.aligned\.(?P<what>m16n8k[\w.]+)", 4)
def _mma(e: Emitter, found: Found, ops: Operands) -> str:
    known = _MATRICES.get(found["what"])
    if known is None:
        raise e.refuse(f"the instruction {found[0]} is not known to the emulator")
    work, counts = known
    parts: list[tuple[Operand, ...]] = [
        e.items(op, count) for op, count in zip(ops, counts, strict=True)
    ]
    code = _give([e.value(item, "u32") for part in parts[1:] for item in part])
    code += f" meet(t, {_FULL}, {e.line}, {work}, true); "
    return code + " ".join(
        e.store(item, "u32", f"t.warp->out[t.lane][{i}]") for i, item in enumerate(parts[0])
    )


@rule(
    r"ldmatrix\.sync\.aligned\.m8n8\.x(?P<count>1|2|4)(?P<trans>\.trans)?\.shared(?:::cta)?\.b16", 2
)
def _ldmatrix(e: Emitter, found: Found, ops: Operands) -> str:
    count = int(found["count"])
    code = f"matrix_row(t, {e.address(ops[1])}, {count}, {e.line}); "
    work = f"gather_rows<{count}, {'true' if found['trans'] else 'false'}>"
    code += f"meet(t, {_FULL}, {e.line}, {work}, true); "
    return code + " ".join(
        e.store(item, "u32", f"t.warp->out[t.lane][{i}]")
        for i, item in enumerate(e.items(ops[0], count))
    )
