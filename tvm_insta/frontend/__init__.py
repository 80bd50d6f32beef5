"""Front ends: a plain Relax module whose constants are folded and whose layers have names."""

from __future__ import annotations

from tvm_insta.frontend.byte_input import ByteInput
from tvm_insta.frontend.exclusive import exclusive
from tvm_insta.frontend.imported import Imported
from tvm_insta.frontend.inputs import HALVES, as_arrays, random_tensors
from tvm_insta.frontend.layers import Reason, SourceLayer, WhyFloat
from tvm_insta.frontend.sites import Site
from tvm_insta.frontend.torch.export import check_parts, export_graph
from tvm_insta.frontend.torch.graph import types_of
from tvm_insta.frontend.torch.import_torch import import_torch, trace_and_fold
from tvm_insta.frontend.torch.outputs import Output, join_outputs, joined
from tvm_insta.frontend.torch.state import Snapshot, unchanged

__all__ = [
    "HALVES",
    "ByteInput",
    "Imported",
    "Output",
    "Reason",
    "Site",
    "Snapshot",
    "SourceLayer",
    "WhyFloat",
    "as_arrays",
    "check_parts",
    "exclusive",
    "export_graph",
    "import_torch",
    "join_outputs",
    "joined",
    "random_tensors",
    "trace_and_fold",
    "types_of",
    "unchanged",
]
