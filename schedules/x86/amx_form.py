"""The operators that AMX tiles compute, and the instructions that multiply tiles."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Form:
    """The names of an operator for tiles.

    Attributes:
        rule: `schedule_rule` of its sum, and the name of the record.
        image: block that writes the padded image in numbers that tiles load.
        sums: block of the sum.
    """

    rule: str
    image: str
    sums: str


SIGNS = Form("insta_bconv_signs", "bconv_signs", "bconv")
"""`insta.bitserial_conv2d_signs`."""

NUMBERS = Form("insta_fconv_tiles", "narrow_pad", "fconv_tiles")
"""`insta.conv2d_tiles`."""

FORMS = (SIGNS, NUMBERS)


@dataclass(frozen=True)
class Product:
    """An instruction that multiplies tiles.

    Attributes:
        instruction: its name, as in LLVM's intrinsic.
        feature: of the CPU that has it, in LLVM's names.
    """

    instruction: str
    feature: str


SIGNED = Product("tdpbssd", "amx-int8")
"""int8 pixels by int8 weights."""

UNSIGNED = Product("tdpbusd", "amx-int8")
"""uint8 pixels by int8 weights."""

BF16 = Product("tdpbf16ps", "amx-bf16")
"""Pairs of bfloat16 numbers, summed in float32."""
