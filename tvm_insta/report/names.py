"""Names of operators and of schedule rules, as people read them.

This is the one place where such a name is taken apart.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_DIALECTS = ("insta", "nn")


@dataclass(frozen=True)
class Name:
    """The name of an operator ("insta.bitserial_conv2d_blocked") or of a rule ("insta_bconv").

    Attributes:
        dialect: "insta", "nn" or "".
        short: the rest.
        binary: whether it is an operator that computes on packed bits.
    """

    dialect: str
    short: str
    binary: bool


def parse(name: str) -> Name:
    """Take a name apart."""
    for dialect in _DIALECTS:
        for mark in (".", "_"):
            before, found, rest = name.partition(mark)
            if found and before == dialect:
                binary = mark == "." and dialect == "insta" and rest.startswith("bitserial_")
                return Name(dialect, rest, binary)
    return Name("", name, False)


def any_binary(operators: Iterable[str]) -> bool:
    """Whether one of the operators computes on packed bits."""
    return any(parse(name).binary for name in operators)
