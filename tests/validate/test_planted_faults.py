"""Faults planted in the compiler, each found by the check that every build ends with."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import tvm
from tvm import relax

import tvm_insta
from tests.passes.networks import insert
from tests.validate.networks import SHAPE, Everything
from tvm_insta.compiler import driver
from tvm_insta.errors import ValidationError
from tvm_insta.ops import packing
from tvm_insta.passes import narrow_floats
from tvm_insta.passes.fold_scales import fold_scales
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.recognise import recognise_layers
from tvm_insta.passes.rewriter import Rewriter, array, const, op_name, rank
from tvm_insta.passes.simplify import simplify
from tvm_insta.passes.to_nhwc import to_nhwc
from tvm_insta.runtime import c_backend, vm_backend
from tvm_insta.target import parse

EXAMPLE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(7))


@functools.cache
def imported(sign_of_zero="exact"):
    """The export knows nothing of the passes: one serves all faults in them."""
    return ORIGINAL(Everything(), [EXAMPLE], max_batch=4, dynamic=True, sign_of_zero=sign_of_zero)


ORIGINAL = driver.import_torch


@pytest.fixture(autouse=True)
def one_export(monkeypatch):
    monkeypatch.setattr(driver, "import_torch", lambda *_, **__: imported())


def build(out, **options):
    options = {"max_batch": 4, **options}
    return tvm_insta.build(Everything(), EXAMPLE, "native", out_dir=out / "out", **options)


class Change(Rewriter):
    """Changes one call of ``main``: the `number`-th that `wanted` takes."""

    def __init__(self, mod, wanted, change, number=0):
        super().__init__(mod)
        self.wanted, self.change, self.left = wanted, change, number
        self.done = False

    def visit(self, call):
        if not self.done and self.wanted(call):
            self.left -= 1
            if self.left < 0:
                self.done = True
                return self.change(self, call)
        return call

    def applied(self):
        mod = self.run()
        assert self.done, "the fault was not planted"
        return mod


def op(name):
    return lambda call: op_name(call) == f"relax.{name}"


def with_attrs(call, **changed):
    """The call with other attributes."""
    attrs = {key: call.attrs[key] for key in call.attrs.keys()}
    return relax.Call(call.op, list(call.args), tvm.ir.make_node("ir.DictAttrs", **attrs | changed))


def with_constant(call, change, at=1):
    """The call with another constant."""
    args = list(call.args)
    value = array(args[at])
    args[at] = const(change(value), str(value.dtype))
    return relax.Call(call.op, args, call.attrs)


def scaled_vector(call):
    """A product with one number per channel."""
    return op("multiply")(call) and any(
        value is not None and value.size == 32 for value in map(array, call.args)
    )


def roll_vector(_, call):
    at = next(i for i, arg in enumerate(call.args) if array(arg) is not None)
    return with_constant(call, lambda v: np.roll(v, 1, axis=-1), at)


def reversed_words(words):
    bits = np.unpackbits(np.ascontiguousarray(words, "<u4").view(np.uint8), bitorder="little")
    return (
        np.packbits(bits.reshape(-1, 32)[:, ::-1], bitorder="little")
        .view("<u4")
        .reshape(words.shape)
    )


def one_bit(words):
    changed = words.copy()
    changed.reshape(-1)[5] ^= 4
    return changed


def of_another(rewriter, call):
    """A statistic of the tensor that was made first of those of this shape."""
    like = call.args[0]
    other = next(
        var
        for var in rewriter.calls
        if rank(var) == rank(like) and str(var.ty) == str(like.ty) and not var.same_as(like)
    )
    return relax.Call(call.op, [other, *call.args[1:]], call.attrs)


def turned_batch(_, call):
    return relax.op.flip(call, axis=0)


CONV = op("insta.bitserial_conv2d")
PACK = op("insta.threshold_pack")
FAULTS = {
    # fault: (the pass behind which it is planted, the call, what becomes of it, which of them)
    "flipped sign of a threshold": (
        recognise_layers,
        lambda call: PACK(call) and call.attrs["bits"] == 2,
        lambda _, call: with_constant(call, np.negative),
    ),
    "greater or equal in place of greater": (
        recognise_layers,
        lambda call: PACK(call) and call.attrs["compare"] == "gt",
        lambda _, call: with_attrs(call, compare="ge"),
    ),
    "swapped scales of channels": (fold_scales, scaled_vector, roll_vector),
    "swapped slopes of a PReLU": (
        fold_scales,
        lambda call: scaled_vector(call) and array(call.args[0]) is not None,
        roll_vector,
    ),
    "lost divisor of a pool": (simplify, op("divide"), lambda _, call: call.args[0]),
    "lost bias": (simplify, op("add"), lambda _, call: call.args[0]),
    "padding on the wrong side": (
        to_nhwc,
        op("insta.conv2d"),
        lambda _, call: with_attrs(call, padding=[1, 1, 0, 0]),
    ),
    "padding on the wrong side of a packed image": (
        recognise_layers,
        CONV,
        lambda _, call: with_attrs(call, padding=[2, 1, 0, 1]),
    ),
    "swapped strides": (
        recognise_layers,
        lambda call: CONV(call) and list(call.attrs["strides"]) == [2, 1],
        lambda _, call: with_attrs(call, strides=[1, 2]),
    ),
    "moments of the wrong tensor": (recognise_layers, op("insta.moments"), of_another),
    "permuted channels of a float weight": (
        to_nhwc,
        op("insta.conv2d"),
        lambda _, call: with_constant(call, lambda w: np.roll(w, 1, axis=3)),
    ),
    "wrong order of the bits in a word": (
        recognise_layers,
        CONV,
        lambda _, call: with_constant(call, reversed_words),
    ),
    "one wrong weight": (recognise_layers, CONV, lambda _, call: with_constant(call, one_bit), 1),
    "lost ReLU": (simplify, op("nn.relu"), lambda _, call: call.args[0]),
    "images of a batch exchanged": (fold_scales, op("insta.dense"), turned_batch),
}


def test_without_a_fault(tmp_path):
    for runtime in ("vm", "c"):
        options = build(tmp_path / runtime, runtime=runtime).manifest.options
        assert options["checked"] == "passed"
        assert 0 < options["check_seconds"] < options["compile_seconds"]


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_in_passes(fault, tmp_path, monkeypatch):
    behind, wanted, change, *number = FAULTS[fault]

    @module_pass("Fault")
    def planted(mod, _):
        return Change(mod, wanted, change, *number).applied()

    insert(monkeypatch, behind, planted)
    with pytest.raises(ValidationError, match=r"not what PyTorch computes|another output") as error:
        build(tmp_path)
    assert not (tmp_path / "out").exists(), "something was left behind"
    print(error.value)


def test_wrong_border_class(tmp_path, monkeypatch):
    original = packing.border_tables

    def tables(*args, **options):
        base, rows, columns = original(*args, **options)
        return base, np.roll(rows, 1), columns

    monkeypatch.setattr(packing, "border_tables", tables)
    with pytest.raises(ValidationError, match="convolution_2"):
        build(tmp_path)


def test_sign_of_zero_is_one(tmp_path, monkeypatch):
    """The compiler takes +1 for torch.sign(0), which nobody asked for."""
    monkeypatch.setattr(driver, "import_torch", lambda *_, **__: imported("+1"))
    with pytest.raises(ValidationError, match="not what PyTorch computes"):
        build(tmp_path)


def test_range_of_another_layer(tmp_path, monkeypatch):
    """8-bit integers of a range that is far from the layer's own."""
    if "avx512vnni" not in parse("llvm").features:
        pytest.skip("this CPU has no avx512vnni")
    original = narrow_floats.calibrate
    build(tmp_path / "right", stem="int8", calibrate="random")

    def shifted(*args, **options):
        return {name: value / 4 for name, value in original(*args, **options).items()}

    monkeypatch.setattr(narrow_floats, "calibrate", shifted)
    with pytest.raises(ValidationError, match="int8"):
        build(tmp_path / "wrong", stem="int8", calibrate="random")


def test_position_in_the_batch_at_run_time(tmp_path, monkeypatch):
    """The plain-C form hands the images of a batch out in the wrong order."""
    for backend in (c_backend.CBackend, vm_backend.VmBackend):
        original = backend.run

        def turned(self, arrays, batch, original=original):
            return original(self, arrays, batch)[::-1].copy()

        monkeypatch.setattr(backend, "run", turned)
    with pytest.raises(ValidationError, match="of a batch of"):
        build(tmp_path, runtime="c")


def test_no_check_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(driver, "import_torch", lambda *_, **__: imported("+1"))
    options = build(tmp_path, check=False).manifest.options
    assert options["checked"] == "skipped" and options["check_seconds"] == 0.0
