"""Reading by index.

Where PyTorch raises for an index outside of a dimension, the nearest one inside is read: a kernel
neither raises nor reads what does not belong to it.
"""

from __future__ import annotations

import torch
from tvm import relax

from tvm_insta.frontend.torch.operators.converter import Bound, Call, Expr, converts
from tvm_insta.frontend.torch.operators.shapes import _check_along


def _counted_from_front(c: Call, index: Expr, size: int) -> Expr:
    """Negative indices count from the end."""
    dtype = str(index.ty.dtype.dtype)
    negative = relax.op.less(index, relax.const(0, dtype))
    return c.emit(relax.op.where(negative, relax.op.add(index, relax.const(size, dtype)), index))


@converts("index_select.default", check=_check_along)
def _index_select(c: Call) -> Expr:
    axis = int(c["dim"]) % c.fake("self").ndim
    return c.emit(relax.op.take(c["self"], c["index"], axis=axis, mode="clip"))


@converts("embedding.default")
def _embedding(c: Call) -> Expr:
    return c.emit(relax.op.take(c["weight"], c["indices"], axis=0, mode="clip"))


@converts("gather.default", check=_check_along)
def _gather(c: Call) -> Expr:
    """PyTorch gathers where the index lies: other dimensions of the source may be larger."""
    x, axis = c["self"], int(c["dim"]) % c.fake("self").ndim
    for dim, (own, wanted) in enumerate(
        zip(c.fake("self").shape, c.fake("index").shape, strict=True)
    ):
        if dim != axis and isinstance(own, int) and own != wanted:
            x = c.emit(relax.op.strided_slice(x, [dim], [0], [int(wanted)], [1]))
    dtype = str(c["index"].ty.dtype.dtype)
    last = relax.const(int(c.fake("self").shape[axis]) - 1, dtype)
    index = c.emit(relax.op.maximum(c["index"], relax.const(0, dtype)))
    index = c.emit(relax.op.minimum(index, last))  # as `take`: no index leaves the tensor
    return c.emit(relax.op.gather_elements(x, index, axis))


def _check_index(bound: Bound) -> tuple[str, str] | None:
    used = [index for index in bound["indices"] if index is not None]
    if any(index.meta["val"].dtype == torch.bool for index in used):
        return (
            "with a mask, whose result has as many elements as the mask has True",
            "choose with torch.where",
        )
    if len(used) != 1:
        return "with several tensors computed from the input", "index one dimension after another"
    axis = next(axis for axis, index in enumerate(bound["indices"]) if index is not None)
    if not isinstance(bound.value("self").shape[axis], int):
        return "along the batch", "leave the images of a batch together"
    return None


@converts("index.Tensor", check=_check_index)
def _index(c: Call) -> Expr:
    """One index tensor; several constant ones have become an index_select before."""
    indices = c["indices"]
    axis = next(axis for axis, index in enumerate(indices) if index is not None)
    index = _counted_from_front(c, indices[axis], int(c.fake("self").shape[axis]))
    return c.emit(relax.op.take(c["self"], index, axis=axis, mode="clip"))


@converts("take.default")
def _take(c: Call) -> Expr:
    flat = c.emit(relax.op.reshape(c["self"], [-1]))
    index = _counted_from_front(c, c["index"], int(c.fake("self").numel()))
    return c.emit(relax.op.take(flat, index, axis=0, mode="clip"))


def _check_triangle(bound: Bound) -> tuple[str, str] | None:
    if all(isinstance(size, int) for size in bound.value("self").shape[-2:]):
        return None
    return "over the batch", "leave the images of a batch together"


@converts("tril.default", "triu.default", check=_check_triangle)
def _triangle(c: Call) -> Expr:
    lower = "tril" in str(c.node.target)
    rows, columns = (int(size) for size in c.fake("self").shape[-2:])
    make = torch.tril if lower else torch.triu
    mask = make(torch.ones(rows, columns, dtype=torch.bool), int(c["diagonal"]))
    zero = torch.zeros((), dtype=c.result.dtype)
    dtype = str(c["self"].ty.dtype.dtype)
    return c.emit(
        relax.op.where(
            relax.const(mask.numpy(), "bool"), c["self"], relax.const(zero.float().numpy(), dtype)
        )
    )
