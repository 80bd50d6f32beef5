"""Before and after of one pass, as TVMScript."""

from __future__ import annotations

import tvm
from tvm import relax

from tvm_insta.passes.context import Context


def check(run, before, expected, context=None):
    """Run a pass on a module, which stays as it is, and compare with what is expected."""
    kept = before.script()
    after = run(before, context or Context())
    tvm.ir.assert_structural_equal(_plain(after), _plain(expected))
    assert before.script() == kept, "the pass changed its input"
    return after


def _plain(mod):
    """The module without second names of one value, and without the symbols of its functions."""
    mod = relax.transform.CanonicalizeBindings()(mod)
    return tvm.IRModule({var: f.without_attr("global_symbol") for var, f in mod.functions.items()})


def const(value, dtype="float32"):
    """A constant for a script."""
    return relax.const(value.astype(dtype), dtype)
