"""``--require-binary``: no layer stays float unless it is named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from tvm_insta.errors import InstaError

_PRODUCTS = ("conv", "dense")


class _Layer(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def op(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def reason(self) -> str | None: ...


def require_binary(layers: Iterable[_Layer], allowed: Sequence[str]) -> None:
    """Do nothing if every convolution and dense layer is binary, or is allowed to stay float.

    Args:
        layers: of the manifest or the report.
        allowed: module paths; a path stands for all layers below it, too.

    Raises:
        InstaError: a layer stays float, and why; or no layer has one of the names.
    """
    every = list(layers)
    unknown = [name for name in allowed if not any(_covers(name, layer.name) for layer in every)]
    if unknown:
        floats = ", ".join(layer.name for layer in every if layer.kind != "binary") or "none"
        raise InstaError(
            f"got allow_float {unknown[0]!r}, but there is no such layer: the float layers are "
            f"{floats}"
        )
    left = [
        layer
        for layer in every
        if layer.kind != "binary"
        and layer.op.startswith(_PRODUCTS)
        and not any(_covers(name, layer.name) for name in allowed)
    ]
    if left:
        reasons = "; ".join(f"{layer.name} ({layer.op}): {layer.reason}" for layer in left)
        raise InstaError(
            f"got {len(left)} layers that stay float where every layer is to be binary: {reasons}; "
            f"change them, or allow them with --allow-float {','.join(x.name for x in left)}"
        )


def _covers(path: str, name: str) -> bool:
    return name == path or name.startswith((f"{path}.", f"{path}#"))
