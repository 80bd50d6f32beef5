"""Part of phase 5: the report gets a list of all comparisons with thresholds, for the manifest.

These are the calls of `insta.threshold_pack` and of `insta.threshold_signs`.
"""

from __future__ import annotations

from collections.abc import Iterator

import tvm

from tvm_insta import ops
from tvm_insta.ops.threshold_pack import ThresholdPack
from tvm_insta.ops.threshold_signs import ThresholdSigns
from tvm_insta.passes.context import Context
from tvm_insta.passes.module_pass import module_pass
from tvm_insta.passes.report import Pack
from tvm_insta.passes.rewriter import Expr, array, op_name, shape_of


@module_pass("RecordPacks")
def record_packs(mod: tvm.IRModule, context: Context) -> tvm.IRModule:
    """List the packs, in their order; the module stays as it is."""
    context.report.packs = list(_packs(mod))
    return mod


def _packs(mod: tvm.IRModule) -> Iterator[Pack]:
    for block in mod["main"].body.blocks:
        for binding in block.bindings:
            said = _attributes(binding.value)
            if said is None:
                continue
            x, thresholds = binding.value.args
            value = array(thresholds)
            yield Pack(
                channels=shape_of(x)[-1],
                bits=said.bits if isinstance(said, ThresholdPack) else 1,
                compare=said.compare,
                nan=said.nan,
                groups=said.groups if isinstance(said, ThresholdPack) else 1,
                pad=tuple(said.pad),
                site=said.site,
                thresholds=None if value is None else value.astype("<f4").tobytes().hex(),
                threshold_shape=() if value is None else value.shape,
            )


def _attributes(value: Expr) -> ThresholdPack | ThresholdSigns | None:
    """What a comparison says of itself, None for anything else."""
    name = op_name(value)
    if name == "relax.insta.threshold_pack":
        return ops.threshold_pack.of(value)
    return ops.threshold_signs.of(value) if name == "relax.insta.threshold_signs" else None
