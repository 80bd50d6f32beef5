"""The allow-list: a graph holds nothing but operators that are known to be right, or is refused."""

from __future__ import annotations

import torch
from torch import fx

from tvm_insta.frontend.torch.graph import name_of, types_of
from tvm_insta.frontend.torch.operators.converter import TABLE, bind, known_type
from tvm_insta.frontend.torch.operators.ordering import LONGEST
from tvm_insta.frontend.torch.operators.refusal import IN_FLOAT32, refusal
from tvm_insta.frontend.torch.operators.rewrites import rewrite
from tvm_insta.frontend.torch.operators.symbols import SYMBOLIC

OWN = "tvm_insta."
"""Operators of the front end itself."""

_ORDER = "take amax, amin or argmax, or read elements of sort()"
_SORT = f"sort at most {LONGEST} elements along a dimension of fixed size, or do it on the output"
_SCATTER = "choose with torch.where, or join parts with torch.cat"
_VALUES = "its result has as many elements as the values say: choose with torch.where"
_RANDOM = "a network that draws random numbers has no one answer: draw them outside, as an input"

INSTEAD = {
    "sort": _SORT, "topk": _SORT, "median": _ORDER, "kthvalue": _ORDER,
    "mode": _ORDER, "quantile": _ORDER, "cummax": _ORDER, "cummin": _ORDER,
    "logcumsumexp": "write it with exp, cumsum and log",
    "scatter": _SCATTER, "scatter_add": _SCATTER, "scatter_reduce": _SCATTER,
    "index_put": _SCATTER, "index_add": _SCATTER,
    "nonzero": _VALUES, "masked_select": _VALUES, "unique": _VALUES, "_unique2": _VALUES,
    "rand": _RANDOM, "randn": _RANDOM, "rand_like": _RANDOM, "randn_like": _RANDOM,
    "bernoulli": _RANDOM, "randint": _RANDOM, "randperm": _RANDOM, "multinomial": _RANDOM,
    "native_dropout": "call eval() on the module, and pass training=False to dropout",
    "_native_batch_norm_legit_functional": "call eval() on the module that normalises",
    "grid_sampler_2d": "sample float32 images, bilinear or nearest, with zeros or border padding",
    "col2im": "fold float32 patches [N, channels * taps, places]",
    "_trilinear": "write it with torch.einsum or torch.matmul",
    "searchsorted": "use torch.bucketize with fixed boundaries",
    "_local_scalar_dense": "compute with the tensor itself, without .item()",
    "masked_scatter": "choose with torch.where(mask, x, y)",
    "erfc": "write 1 - torch.erf(x)",
    "max_unpool2d": "use F.interpolate, or a transposed convolution",
    "max_unpool3d": "use F.interpolate, or a transposed convolution",
    "__lshift__": "shift by a number, place by place, and join the parts with torch.stack",
    "__rshift__": "shift by a number, place by place, and join the parts with torch.stack",
    "ldexp": "multiply by 2.0 ** exponent",
}  # fmt: skip
"""What to write in place of an operator that is refused."""

_ELSE = "write that line with convolutions, products, pools, reductions or elementwise operators"


def prepare(module: fx.GraphModule) -> None:
    """Rewrite a graph into operators that have converters, and refuse every other, in place.

    Args:
        module: a graph of core ATen operators with fake values in ``node.meta["val"]``; constants
            are folded. Operators of the namespace ``tvm_insta`` pass.

    Raises:
        ImportModelError: one sentence with operator, module path and line, and what to write.
    """
    rewrite(module)
    for node in module.graph.nodes:
        if node.op == "call_function":
            _check(node)


def _check(node: fx.Node) -> None:
    if name_of(node).startswith(OWN):
        data = node.args[0].meta["val"].dtype  # type: ignore[union-attr]
        if data != torch.float32:
            raise refusal(node, f"in {str(data).removeprefix('torch.')}", IN_FLOAT32)
        return
    if node.target in SYMBOLIC:
        return
    row = TABLE.get(name_of(node))
    if row is None:
        base = name_of(node).split(".")[1] if name_of(node) else ""
        raise refusal(node, "", INSTEAD.get(base, _ELSE))
    for dtype in (dtype for each in (node, *node.all_input_nodes) for dtype in types_of(each)):
        if not known_type(dtype):
            raise refusal(node, f"on {dtype}", "compute in float32")
    if row.check is not None:
        found = row.check(bind(node))
        if found is not None:
            raise refusal(node, *found)
