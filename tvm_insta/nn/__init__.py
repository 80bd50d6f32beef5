"""Binary neural networks with instance-aware thresholds, in PyTorch.

Networks come from `create` (ready to run) or `build` (to train). The INSTA modules are a
reconstruction: the paper's authors (INSTA-BNN, ICCV 2023) published no code.
"""

from __future__ import annotations

from tvm_insta.nn.binarise import binarise_activation, binarise_weight
from tvm_insta.nn.blocks import BinaryNetwork
from tvm_insta.nn.checkpoint import Checkpoint, file_sha256, read_checkpoint, save_checkpoint
from tvm_insta.nn.conv import BinaryConv2d, BinaryLinear, set_binary_weights
from tvm_insta.nn.count import Counts, LayerCount, count
from tvm_insta.nn.create import (
    Created,
    build,
    create,
    create_from_zoo,
    create_with_note,
    preprocessing,
)
from tvm_insta.nn.initialise import INITS
from tvm_insta.nn.load import copy_into, load_checkpoint, refuse_non_finite
from tvm_insta.nn.options import (
    MODELS,
    VARIANTS,
    ModelOptions,
    default_num_classes,
    input_shape,
)
from tvm_insta.nn.packaged import zoo_checkpoints
from tvm_insta.nn.prelu import InstaPReLU, RPReLU
from tvm_insta.nn.quantise import MultiBitActivation
from tvm_insta.nn.statistics import STATISTICS, measure
from tvm_insta.nn.threshold import InstaThreshold, InstaThresholdPlus, RSign

__all__ = [
    "INITS",
    "MODELS",
    "STATISTICS",
    "VARIANTS",
    "BinaryConv2d",
    "BinaryLinear",
    "BinaryNetwork",
    "Checkpoint",
    "Counts",
    "Created",
    "InstaPReLU",
    "InstaThreshold",
    "InstaThresholdPlus",
    "LayerCount",
    "ModelOptions",
    "MultiBitActivation",
    "RPReLU",
    "RSign",
    "binarise_activation",
    "binarise_weight",
    "build",
    "copy_into",
    "count",
    "create",
    "create_from_zoo",
    "create_with_note",
    "default_num_classes",
    "file_sha256",
    "input_shape",
    "load_checkpoint",
    "measure",
    "preprocessing",
    "read_checkpoint",
    "refuse_non_finite",
    "save_checkpoint",
    "set_binary_weights",
    "zoo_checkpoints",
]
