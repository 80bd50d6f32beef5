"""What has to be true of a module after each phase: an IR verifier.

A pass that breaks one of these is found where it happens, not three phases later in a kernel. The
tests verify the module after every phase, and `--verify-stages` does.

- ``main`` calls no operator that is unknown to the phase (`Vocabulary`).
- The attributes, shapes and dtypes of every call fit its operator, and the type of each variable is
  what the operator infers.
- Every call that computes layers of the network says which: the report, the manifest and the tuner
  go by these names.
- Behind fusion, the arguments of a kernel call are those of its PrimFunc.
- TVM's own rules hold: a variable is bound once, and before it is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import tvm
from tvm import relax, tirx
from tvm.ir import Call, GlobalVar, Op
from tvm.tirx.buffer import is_buffer_var

from tvm_insta.errors import OpError, VerifyError
from tvm_insta.ops._common import same
from tvm_insta.ops._declare import OPERATORS, LayerAttributes
from tvm_insta.passes.labels import Label
from tvm_insta.passes.rewriter import Expr, array, op_name


@dataclass(frozen=True)
class Vocabulary:
    """The operators that a phase leaves.

    Attributes:
        ours: of `relax.insta.*`, without that prefix.
        gone: plain Relax operators that an earlier phase has replaced.
        computed: of `ours`, those that are left only where their weight is computed, or where the
            size of an image is unknown.
        kernels: whether ``main`` calls kernels, and nothing else.
    """

    ours: frozenset[str]
    gone: frozenset[str] = frozenset()
    computed: frozenset[str] = frozenset()
    kernels: bool = False


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NORMS = _words("relax.nn.batch_norm relax.nn.dropout")
_IMPORTED = _words("convolution conv2d dense levels product round_half")
_CHANNELS_LAST = _words("conv2d dense levels product round_half")
_RECOGNISED = _words(
    "bitserial_conv2d bitserial_dense bitserial_product conv2d dense instance_threshold levels "
    "moment_quotient moments round_half threshold_pack"
)
_LOWERED = _words(
    "bitserial_conv2d_blocked bitserial_conv2d_runs bitserial_conv2d_signs bitserial_product "
    "conv2d_blocked conv2d_narrow conv2d_tiles halving_pool instance_threshold levels "
    "moment_mean moment_quotient moment_rows repeat_channels round_half threshold_pack "
    "threshold_signs"
)
_CANONICAL = _words("bitserial_conv2d bitserial_dense conv2d dense moments")

VOCABULARIES: dict[str, Vocabulary] = {
    "imported": Vocabulary(_IMPORTED),
    "simplify": Vocabulary(_IMPORTED, _NORMS),
    "to_nhwc": Vocabulary(_CHANNELS_LAST, _NORMS),
    "recognise": Vocabulary(_RECOGNISED, _NORMS),
    "fold_scales": Vocabulary(_RECOGNISED | {"repeat_channels"}, _NORMS),
    "lower": Vocabulary(_LOWERED | _CANONICAL, _NORMS, _CANONICAL),
    "fuse": Vocabulary(frozenset(), kernels=True),
    "schedule": Vocabulary(frozenset(), kernels=True),
}
"""By the name of the phase."""

_KERNEL = "relax.call_tir"


def verify(mod: tvm.IRModule, phase: str) -> None:
    """Check a module that a phase has yielded.

    Args:
        mod: the module.
        phase: key of `VOCABULARIES`.

    Raises:
        VerifyError: what is wrong, and with which binding.
    """
    words = VOCABULARIES[phase]
    for var, value in _bindings(mod["main"]):
        if not isinstance(value, Call):
            continue
        for complaint in _complaints(mod, words, var, value):
            raise VerifyError(
                f"after phase {phase} the binding of {var.name} is wrong: {complaint}; --dump-ir "
                "shows it"
            )
    try:
        relax.analysis.well_formed(mod)
    except Exception as error:  # of several classes; each says that the module is wrong
        line = str(error).strip().splitlines()[0]
        raise VerifyError(
            f"after phase {phase} the module is not well-formed: {line}; --dump-ir shows it"
        ) from error


def _complaints(mod: tvm.IRModule, words: Vocabulary, var: Expr, call: Call) -> Iterator[str]:
    name = op_name(call) or f"@{getattr(call.op, 'name_hint', call.op)}"
    if words.kernels != (name == _KERNEL):
        known = "kernels" if words.kernels else "operators"
        yield f"{name} is called where only {known} are"
    elif name == _KERNEL:
        yield from _kernel(mod, call)
    elif name in OPERATORS:
        yield from _ours(words, var, call)
    elif name in words.gone:
        yield f"{name} should have been replaced"
    else:
        yield from _type(var, call)


def _ours(words: Vocabulary, var: Expr, call: Call) -> Iterator[str]:
    operator = OPERATORS[op_name(call)]
    if operator.name not in words.ours:
        yield f"insta.{operator.name} is unknown to this phase"
    elif operator.name in words.computed and _is_constant(call):
        yield f"insta.{operator.name} has a constant weight, and should have been lowered"
    try:
        yield from _type(var, call)
        attributes = operator.of(call)
    except OpError as error:
        yield str(error)
        return
    if isinstance(attributes, LayerAttributes) and not attributes.layers:
        yield f"insta.{operator.name} names no layer that it computes"


def _is_constant(call: Call) -> bool:
    """Whether a canonical layer has a constant weight and an image of a known size."""
    images = [arg.ty.shape.values[1:-1] for arg in call.args[:1]]
    sized = all(isinstance(size, tirx.IntImm) for image in images for size in image)
    return sized and all(array(weight) is not None for weight in call.args[1:])


def _type(var: Expr, call: Call) -> Iterator[str]:
    """Whether a variable has the type that its operator infers."""
    infer = call.op.get_attr("FInferType") if isinstance(call.op, Op) else None
    if infer is None:
        return
    found = infer(call, relax.BlockBuilder())
    if not _same_type(var.ty, found):
        yield f"it is of type {var.ty}, but {op_name(call)} gives {found}"


def _same_type(one: Any, other: Any) -> bool:
    if isinstance(one, relax.TupleType) and isinstance(other, relax.TupleType):
        pairs = zip(one.fields, other.fields, strict=False)
        return len(one.fields) == len(other.fields) and all(_same_type(*pair) for pair in pairs)
    if not isinstance(one, relax.TensorType) or not isinstance(other, relax.TensorType):
        return type(one) is type(other)
    if str(one.dtype) != str(other.dtype) or one.ndim != other.ndim:
        return False
    shapes = [ty.shape for ty in (one, other)]
    if not all(isinstance(shape, relax.ShapeExpr) for shape in shapes):
        return True  # one of them is known by its rank only
    return all(same(a, b) for a, b in zip(shapes[0].values, shapes[1].values, strict=True))


def _kernel(mod: tvm.IRModule, call: Call) -> Iterator[str]:
    """Whether a kernel exists, takes these arguments, and says what it computes."""
    name, given = call.args[0], list(call.args[1].fields)
    function = mod.functions.get(name) if isinstance(name, GlobalVar) else None
    if not isinstance(function, tirx.PrimFunc):
        yield f"{name} is no kernel of the module"
        return
    (made,) = call.ty_args
    results = list(made.fields) if isinstance(made, relax.TupleType) else [made]
    types = [*(arg.ty for arg in given), *results]
    if len(function.params) != len(types):
        yield (
            f"kernel {name.name_hint} has {len(function.params)} parameters, but the call gives "
            f"it {len(types)} arguments and results"
        )
        return
    for at, (parameter, ty) in enumerate(zip(function.params, types, strict=True)):
        if not is_buffer_var(parameter):  # a size that the kernel is told
            continue
        if str(parameter.dtype) != str(ty.dtype.dtype) or len(parameter.shape) != ty.ndim:
            yield (
                f"parameter {at} of kernel {name.name_hint} is {parameter.dtype} of rank "
                f"{len(parameter.shape)}, but the call gives it {ty}"
            )
    label = Label.of(call)
    if any(_is_layer(operator) for operator in label.operators) and not label.layers:
        yield f"kernel {name.name_hint} computes {label.operators[0]}, but names no layer"


def _is_layer(operator: str) -> bool:
    declared = OPERATORS.get(f"relax.{operator}")
    return declared is not None and issubclass(declared.attributes, LayerAttributes)


def _bindings(function: relax.Function) -> Iterator[tuple[Expr, Expr]]:
    for block in function.body.blocks:
        for binding in block.bindings:
            yield binding.var, binding.value
