"""The operators of binary networks with instance-aware thresholds, as Relax ops `relax.insta.*`.

Importing this package registers every operator with TVM (type inference, legalisation) and with
TVMScript (`R.insta.<name>`). One file per operator holds its meaning, its declaration and its TE,
from which builder, type inference and legalisation follow (`_declare`); `reference` holds numpy
oracles of the same names, `packing` the numpy side of the packed layouts.
"""

from __future__ import annotations

from .bitserial_conv2d import bitserial_conv2d
from .bitserial_conv2d_blocked import bitserial_conv2d_blocked
from .bitserial_conv2d_runs import bitserial_conv2d_runs
from .bitserial_conv2d_signs import bitserial_conv2d_signs
from .bitserial_dense import bitserial_dense
from .bitserial_product import bitserial_product
from .conv2d import conv2d, conv2d_blocked
from .conv2d_narrow import conv2d_narrow
from .conv2d_tiles import conv2d_tiles
from .convolution import convolution
from .dense import dense
from .halving_pool import halving_pool
from .instance_threshold import instance_threshold
from .levels import levels
from .moment_quotient import moment_quotient
from .moments import moment_mean, moment_rows, moments
from .product import product
from .repeat_channels import repeat_channels
from .round_half import round_half
from .threshold_pack import threshold_pack
from .threshold_signs import threshold_signs

__all__ = [
    "bitserial_conv2d",
    "bitserial_conv2d_blocked",
    "bitserial_conv2d_runs",
    "bitserial_conv2d_signs",
    "bitserial_dense",
    "bitserial_product",
    "conv2d",
    "conv2d_blocked",
    "conv2d_narrow",
    "conv2d_tiles",
    "convolution",
    "dense",
    "halving_pool",
    "instance_threshold",
    "levels",
    "moment_mean",
    "moment_quotient",
    "moment_rows",
    "moments",
    "product",
    "repeat_channels",
    "round_half",
    "threshold_pack",
    "threshold_signs",
]
