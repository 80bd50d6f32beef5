"""What a tuning record is about: one PrimFunc, free of names, for one image.

A kernel with a symbolic batch and the same kernel for one image are one workload: it is measured
with one image, and what is best for one image is used for any batch.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import tvm
import tvm_ffi
from tvm import s_tir, tirx
from tvm.ir import IRModule
from tvm_ffi import structural_map, structural_walk

import tvm_insta.ops  # noqa: F401  (registers the intrinsics that workloads may hold)
from tvm_insta.ops.nibble_counts import NIBBLE_COUNTS
from tvm_insta.target import InstaTarget

_NAMES = ("op_pattern", "global_symbol")
_RULE = "schedule_rule"  # annotation of the block of a layer
_CODES = "narrow_pad"  # the block that makes bytes of numbers, see ops/conv2d_narrow.py
_STEPS = 32.0  # per unit: normal random numbers fill the range, and the largest are clipped


def canonical(function: tirx.PrimFunc) -> IRModule:
    """The function as "main" for a batch of one, without what does not change its code."""
    fixed = {
        parameter: tirx.decl_buffer(
            [tirx.IntImm("int64", 1) if isinstance(d, tirx.Var) else d for d in parameter.shape],
            parameter.dtype,
            name=parameter.name,
        )
        for parameter in function.params
        if tirx.buffer.is_buffer_var(parameter)
        and any(isinstance(dim, tirx.Var) for dim in parameter.shape)
    }
    if fixed:
        function = function.specialize(fixed)
    function = _one_scale(function)
    for name in _NAMES:
        if function.attrs and name in function.attrs:
            function = function.without_attr(name)
    return IRModule({"main": function.with_attr("global_symbol", "main")})


def _one_scale(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The steps of an int8 layer, which its calibration chose, replaced by one number.

    They change what the kernel computes and not how: layers that differ in nothing else are one
    workload, and records count whatever images calibrated the network.
    """
    if codes_of(function) != "uint8":
        return function

    def replaced(call: Any) -> Any:
        product = call.args[0] if str(getattr(call.op, "name", "")).endswith("nearbyint") else None
        if not isinstance(product, tirx.Mul) or not isinstance(product.b, tirx.FloatImm):
            return call
        scale = tirx.const(_STEPS, str(product.b.ty.dtype))
        return tirx.nearbyint(product.a * scale)

    return function.with_body(structural_map(function.body, [(tvm.ir.Call, replaced)]))


def codes_of(function: tirx.PrimFunc) -> str | None:
    """Dtype of the codes of a layer in narrow numbers: "uint16" (bf16) or "uint8"; else None."""
    blocks: list[Any] = []
    structural_walk(function.body, (s_tir.SBlock, blocks.append))
    made = [b.writes[0].source.dtype for b in blocks if b.name_hint == _CODES]
    return str(made[0]) if made else None


def counts_nibbles(function: tirx.PrimFunc) -> bool:
    """Whether the bytes of the weight hold four bits each, see `ops.nibble_counts`."""
    calls: list[Any] = []
    structural_walk(function.body, (tvm.ir.Call, calls.append))
    return any(getattr(call.op, "name", "") == NIBBLE_COUNTS for call in calls)


def key_of(mod: IRModule) -> str:
    """The structural hash of a canonical workload, as MetaSchedule's database writes it."""
    return str(int(tvm_ffi.structural_hash(mod)) % (1 << 64))


def same(one: IRModule, other: IRModule) -> bool:
    """Whether two workloads are equal; equal hashes alone do not prove it."""
    return bool(tvm_ffi.structural_equal(one, other))


def to_json(mod: IRModule) -> list[str]:
    """The entry of MetaSchedule's workload table: hash, and the module in base 64.

    TVM indents the JSON inside; without the white space it is half as long.
    """
    compact = json.dumps(json.loads(tvm.ir.save_json(mod)), separators=(",", ":")).encode()
    blob = len(compact).to_bytes(8, "little") + compact
    return [key_of(mod), base64.b64encode(blob).decode()]


def from_json(entry: Any) -> IRModule:
    """The module of an entry of the workload table.

    Raises:
        ValueError: it is none; the message is a clause.
    """
    if not (isinstance(entry, list) and len(entry) == 2 and all(isinstance(e, str) for e in entry)):
        raise ValueError("a workload is a list of its hash and its module")
    blob = base64.b64decode(entry[1], validate=True)
    if len(blob) < 8 or int.from_bytes(blob[:8], "little") != len(blob) - 8:
        raise ValueError("the module is incomplete")
    try:
        # tvm.ir.load_json reads and writes it all once more, in Python, for TVM before 0.11.
        mod = tvm_ffi.serialization.from_json_graph_str(blob[8:].decode())
    except Exception as error:  # TVM's parser raises many types
        raise ValueError("the module is not one that this TVM reads") from error
    if not isinstance(mod, IRModule) or key_of(mod) != entry[0]:
        raise ValueError("the module does not have the hash that stands beside it")
    return mod


def blocks_of(mod: IRModule) -> list[Any]:
    """The blocks of a workload, in order."""
    schedule = s_tir.Schedule(mod)
    return [schedule.get(b) for b in schedule.get_child_blocks(schedule.get_sblock("root"))]


def names_of(blocks: Sequence[Any]) -> Counter[str]:
    """How often each name is among the blocks of a workload."""
    return Counter(str(block.name_hint) for block in blocks)


def layer_of(blocks: Sequence[Any]) -> Hashable | None:
    """What the blocks of two workloads share that differ in their epilogue alone.

    Rule, attributes and the buffers of the blocks that a rule is for: the layer itself, without
    what is fused behind it. None for a workload without a layer.
    """
    found = []
    for block in blocks:
        if _RULE in block.annotations:
            notes = tuple(sorted((name, str(note)) for name, note in block.annotations.items()))
            buffers = [region.source for region in (*block.reads, *block.writes)]
            shapes = tuple((str(b.dtype), tuple(map(str, b.shape))) for b in buffers)
            found.append((notes, shapes))
    return tuple(found) or None


def arguments_of(mod: IRModule) -> list[tuple[str, tuple[int, ...]]]:
    """Dtype and shape of each parameter of a canonical workload."""
    return [
        (str(parameter.dtype), tuple(int(dim) for dim in parameter.shape))
        for parameter in mod["main"].params
    ]


def outputs_of(mod: IRModule) -> list[int]:
    """Positions of the parameters that the workload writes."""
    written = [region.source for block in blocks_of(mod) for region in block.writes]
    parameters = list(mod["main"].params)
    return [i for i, p in enumerate(parameters) if any(p.same_as(buffer) for buffer in written)]


def without_host(target: InstaTarget) -> str:
    """The canonical target that records are of: a card's have nothing to do with its host."""
    described = json.loads(target.canonical)
    if described.pop("host", None) is None:
        return target.canonical
    return json.dumps(described, sort_keys=True, separators=(",", ":"))


def target_id(target: InstaTarget) -> str:
    """Folder name of a target: readable, and distinct for distinct targets of records."""
    digest = hashlib.sha256(without_host(target).encode()).hexdigest()[:8]
    return re.sub(r"[^\w.+-]", "_", f"{target.arch}-{target.mcpu or 'generic'}-{digest}")
