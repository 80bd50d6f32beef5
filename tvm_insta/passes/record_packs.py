"""Part of phase 5: the report gets a list of all `insta.threshold_pack` calls, for the manifest."""

from __future__ import annotations

from collections.abc import Iterator

import tvm

from tvm_insta import ops
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.report import Pack
from tvm_insta.passes.rewriter import array, op_name, shape_of


@module_pass("RecordPacks")
def record_packs(mod: tvm.IRModule, context: Context) -> tvm.IRModule:
    """List the packs, in their order; the module stays as it is."""
    context.report.packs = list(_packs(mod))
    return mod


def _packs(mod: tvm.IRModule) -> Iterator[Pack]:
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            if op_name(binding.value) == "relax.insta.threshold_pack":
                (x, thresholds), said = binding.value.args, ops.threshold_pack.of(binding.value)
                value = array(thresholds)
                yield Pack(
                    channels=shape_of(x)[-1],
                    bits=said.bits,
                    compare=said.compare,
                    nan=said.nan,
                    groups=said.groups,
                    pad=tuple(said.pad),
                    site=said.site,
                    thresholds=None if value is None else value.astype("<f4").tobytes().hex(),
                    threshold_shape=() if value is None else value.shape,
                )
