"""Which network a command line means: one of ours, a checkpoint, or a user's own factory."""

from __future__ import annotations

from tvm_insta.compiler.model_arguments.arguments import add_model_arguments, chosen_model
from tvm_insta.compiler.model_arguments.network import Chosen, build_again

__all__ = ["Chosen", "add_model_arguments", "build_again", "chosen_model"]
