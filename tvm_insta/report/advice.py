"""What to change where a layer stays float, by the code of the reason."""

from __future__ import annotations

ADVICE = {
    "network-input": "the first layer usually stays float; --stem int8 or bf16 makes it faster "
    "where the target has the instructions",
    "real-input": "binarise its input: put the sign or quantiser directly in front of the layer",
    "undefined-at-zero": "give 0 a sign, e.g. torch.where(x >= 0, 1.0, -1.0) in place of x / |x|",
    "input-changed": "move what lies between the quantiser and the layer in front of the "
    "quantiser, or behind the layer",
    "many-levels": "quantise its input to fewer bits, or average fewer elements of it",
    "uneven-levels": "use evenly spaced levels, base + step * code",
    "channel-levels": "use one scale for all channels of the activation; scales by output channel "
    "belong behind the layer",
    "real-weights": "binarise its weights (+-1 times a scale for each output channel), or leave it "
    "float on purpose with --allow-float",
    "many-weight-levels": "use weights of fewer levels: +-1, ternary, or a few bits",
    "input-channel-scales": "scale weights by output channel only: a factor for each input channel "
    "cannot be taken out of the sum",
    "computed-weights": "make its weights a parameter or a buffer; what is computed from the input "
    "is not known when the model is compiled",
    "dimensions": "use Conv2d layers, or products of matrices whose sizes are known: nothing else "
    "is packed",
}
"""By the value of `tvm_insta.frontend.Reason`."""

UNKNOWN = "see the reason"


def advice_for(code: str) -> str:
    """One clause that says what to change."""
    return ADVICE.get(code, UNKNOWN)
