"""Small trained networks that come with the package.

Each is a checkpoint `<name>.safetensors`, whose binary weights are packed to bits, and a model card
`<name>.json`: what it was trained on and how, what it reaches, and the licence of the data.
`create` makes a network of one; `python -m tvm_insta.zoo` lists them and makes new ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tvm_insta.errors import ModelError

if TYPE_CHECKING:
    from tvm_insta.nn import BinaryNetwork

FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Pretrained:
    """A trained network and what belongs to it.

    Attributes:
        module: In evaluation mode.
        preprocessing: How an image becomes an input, see `tvm_insta.nn.preprocessing`; without
            the classes.
        classes: Names of the logits.
        card: The model card; empty if there is none.
    """

    module: BinaryNetwork
    preprocessing: dict[str, Any]
    classes: tuple[str, ...]
    card: dict[str, Any]


def checkpoints() -> dict[str, Path]:
    """List the checkpoints.

    Returns:
        Path by name.
    """
    from tvm_insta.nn import zoo_checkpoints

    return zoo_checkpoints()


def create(name: str) -> Pretrained:
    """Make a trained network.

    Args:
        name: One of `checkpoints()`.

    Returns:
        The network and what belongs to it.

    Raises:
        ModelError: There is no network of that name, or its file is damaged.
    """
    from tvm_insta import nn
    from tvm_insta.zoo.card import read_card

    known = checkpoints()
    if name not in known:
        raise ModelError(
            f"the zoo has no network {name!r}; it has {', '.join(known)} (tvm-insta zoo list)"
        )
    options = nn.read_checkpoint(known[name]).options()
    if options is None:
        raise ModelError(f"{known[name]} does not say which network it is: take another copy of it")
    preprocessing = nn.preprocessing(known[name])
    classes = tuple(preprocessing.pop("classes"))
    module = nn.create(options.model, options.variant, checkpoint=known[name])
    return Pretrained(module, preprocessing, classes, read_card(known[name]))


def load(name: str) -> BinaryNetwork:
    """Make a trained network, as `create` does, without what belongs to it.

    Args:
        name: One of `checkpoints()`.

    Raises:
        ModelError: As for `create`.
    """
    return create(name).module
