"""Which bytes of their buffers the tile instructions of a scheduled kernel touch."""

from __future__ import annotations

import numpy as np
import tvm
import tvm_ffi
from tvm import s_tir, tirx


def reach(function):
    """(buffer, first and last byte that its tiles touch) of every tile load and store."""
    found, bounds = [], tvm.sym.Analyzer()
    buffers = [*function.body.block.alloc_buffers, *function.params]

    def walk(node, values):
        if isinstance(node, tirx.SeqStmt):
            for each in node.seq:
                walk(each, values)
        elif isinstance(node, tirx.For):
            bounds.bind(node.loop_var, tvm.ir.Range.from_min_extent(node.min, node.extent))
            walk(node.body, values)
        elif isinstance(node, s_tir.SBlockRealize):
            axes = [axis.var for axis in node.block.iter_vars]
            own = dict(zip(axes, node.iter_values, strict=True))
            walk(node.block.body, {**values, **own})
        elif isinstance(node, tirx.Evaluate) and len(node.value.args) > 1:
            *_, pointer, stride = node.value.args
            if not isinstance(pointer, tvm.ir.Call):
                return  # the number of a register
            (buffer,) = [b for b in buffers if tvm_ffi.structural_equal(b.data, pointer.args[1])]
            size = np.dtype(str(buffer.dtype)).itemsize
            rename = [(tirx.Var, lambda var: values.get(var, var))]
            offset = tvm_ffi.structural_map(pointer.args[2], rename)
            bound = bounds.const_int_bound(bounds.simplify(offset))
            first, last = int(bound.min_value) * size, int(bound.max_value) * size
            found.append((buffer, first, last + 15 * int(stride) + 63))

    walk(function.body, {})
    return found


def allocated(function, target):
    """Elements of every array, by name, after TVM has shrunk arrays to what it sees in use."""
    mod = tvm.IRModule({"main": function.with_attr("global_symbol", "main")})
    mod = tirx.transform.BindTarget(target.tvm.with_host(target.tvm))(mod)
    pipeline, _, _ = tvm.tirx.get_tir_pipeline("s_tir")
    found = []
    for lowered in pipeline(mod).functions.values():
        tvm_ffi.structural_walk(lowered.body, (tirx.AllocBuffer, found.append))
    return {each.buffer.name: int(np.prod([int(d) for d in each.buffer.shape])) for each in found}


def names_in_bounds(function, target):
    """The names of the buffers that tiles touch, none of them outside of what is allocated."""
    touched = reach(function)
    for buffer, first, last in touched:
        size = np.prod([int(d) for d in buffer.shape]) * np.dtype(str(buffer.dtype)).itemsize
        assert 0 <= first and last < size, (buffer.name, first, last, size)
    sizes = allocated(function, target)
    given = [parameter.name for parameter in function.params]
    for buffer in (buffer for buffer, _, _ in touched if buffer.name not in given):
        assert sizes[buffer.name] == int(buffer.shape[0])
    return {buffer.name for buffer, _, _ in touched}
