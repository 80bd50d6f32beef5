"""Phase 3: level tensors in front of layers become packed bits, statistics become moments.

The front end has found the level tensors: it writes `insta.levels` in front of layers whose
activations have few values and whose weights are +-1 times one scale per output channel. Three
passes, in this order:

- `recognise_moments`: means of powers are `insta.moments`,
- `recognise_thresholds`: what makes thresholds of moments is `insta.instance_threshold`,
- `recognise_layers`: layers behind level tensors compute on packed bits.
"""

from __future__ import annotations

from tvm_insta.passes.recognise.layers import recognise_layers
from tvm_insta.passes.recognise.moments import recognise_moments
from tvm_insta.passes.recognise.thresholds import recognise_thresholds

__all__ = ["recognise_layers", "recognise_moments", "recognise_thresholds"]
