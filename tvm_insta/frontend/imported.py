"""What a front end hands on to the passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import tvm
from torch import fx

from tvm_insta.frontend.layers import SourceLayer
from tvm_insta.frontend.sites import Site
from tvm_insta.frontend.torch.outputs import Output


@dataclass(frozen=True)
class Imported:
    """A network in Relax.

    Attributes:
        mod: Relax module, one function ``main``, NCHW as PyTorch has it, batch symbolic unless it
            was fixed. Every layer carries its name as the attribute `layer`, and every level tensor
            its key as the attribute `site`.
        layers: every convolution and matrix product.
        sites: level tensors by key.
        reference: the exported graph, as the validator executes it.
        input_names: names of the inputs of ``main``.
        outputs: the outputs that ``main`` returns behind each other; none where it returns one.
    """

    mod: tvm.IRModule
    layers: tuple[SourceLayer, ...]
    sites: Mapping[str, Site]
    reference: fx.GraphModule
    input_names: tuple[str, ...]
    outputs: tuple[Output, ...] = ()
