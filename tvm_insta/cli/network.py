"""The network that a command line names, with what a user should know of it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from tvm_insta.compiler import model_arguments

if TYPE_CHECKING:
    from tvm_insta.compiler.model_arguments import Chosen


def chosen_network(args: argparse.Namespace) -> Chosen:
    """Build the network and print its notes.

    Args:
        args: of a parser with `model_arguments.add_model_arguments`.

    Raises:
        InstaError: no network is named, or it cannot be built.
    """
    chosen = model_arguments.chosen_model(args)
    for note in chosen.notes:
        print(f"model: {note}")
    if chosen.note:
        print(f"checkpoint: {chosen.note}")
    return chosen
