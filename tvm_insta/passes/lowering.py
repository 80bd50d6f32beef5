"""Phases 5 to 7 without what depends on options: from folded layers to kernels.

`calibrate` runs a network with these passes, and the pipeline contains them.
"""

from __future__ import annotations

from tvm import relax

from tvm_insta.passes.fuse_consumers import fuse_consumers
from tvm_insta.passes.fuse_epilogues import fuse_epilogues, keep_concatenations
from tvm_insta.passes.labels import legalise
from tvm_insta.passes.lower_binary import lower_binary
from tvm_insta.passes.lower_floats import lower_floats
from tvm_insta.passes.lower_moments import lower_moments
from tvm_insta.passes.merge_moments import merge_moments
from tvm_insta.passes.module_pass import Pass, tvm_pass
from tvm_insta.passes.record_packs import record_packs
from tvm_insta.passes.select_kernels import select_kernels
from tvm_insta.passes.shortcuts import pool_shortcuts

LOWER: tuple[Pass, ...] = (
    pool_shortcuts,
    select_kernels,
    lower_binary,
    lower_floats,
    merge_moments,
    lower_moments,
    record_packs,
)
"""Layers take the form that runs fast on the target."""

FUSE: tuple[Pass, ...] = (
    legalise,
    tvm_pass(relax.transform.AnnotateTIROpPattern()),
    keep_concatenations,
    fuse_epilogues,
    fuse_consumers,
    tvm_pass(relax.transform.FuseTIR()),
    tvm_pass(relax.transform.DeadCodeElimination()),
)
"""TIR kernels, each with its epilogue and what else is fused into it."""
