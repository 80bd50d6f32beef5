"""LSTM, GRU and RNN, step by step: a sequence has a fixed length.

Weights lie ``[directions, gates * hidden, ...]``, the gates of an LSTM in the order input, output,
forget, cell, those of a GRU update, reset, hidden. What a step takes from the input is one product
for all steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.operators.registry import Constant, operator

Direction = Literal["forward", "reverse", "bidirectional"]
Function = Callable[[Tensor], Tensor]
State = tuple[Tensor, ...]
"""What a step hands on: the hidden state, and the cell of an LSTM."""

Step = Callable[[Tensor, State | None], State]
"""Takes the products of a step's input and the state before it, None for zeros."""

_FUNCTIONS: dict[str, Function] = {
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Relu": torch.relu,
    "Softsign": F.softsign,
    "Softplus": F.softplus,
}


class _Weights:
    """The weights of one direction.

    Attributes:
        own: ``[gates * hidden, input]``, of the input.
        other: ``[gates * hidden, hidden]``, of the hidden state.
        own_bias: ``[gates * hidden]``, added to the products of the input; None without.
        other_bias: the same, of the hidden state.
        hidden: size of the hidden state.
    """

    def __init__(self, w: Tensor, r: Tensor, b: Tensor | None, direction: int) -> None:
        self.own, self.other = w[direction], r[direction]
        self.hidden = int(r.shape[2])
        rows = int(r.shape[1])
        self.own_bias = None if b is None else b[direction, :rows]
        self.other_bias = None if b is None else b[direction, rows:]

    def recurrent(self, h: Tensor | None, first: int = 0, last: int | None = None) -> Any:
        """Rows of the product of the state and its weights, with the bias; 0 for no state."""
        bias = None if self.other_bias is None else self.other_bias[first:last]
        if h is not None:
            return F.linear(h, self.other[first:last], bias)
        return 0.0 if bias is None else bias


def _functions(
    names: tuple[str, ...], default: tuple[str, ...], direction: int, parameters: tuple[float, ...]
) -> list[Function]:
    """The activation functions of one direction.

    Raises:
        ImportModelError: one is not known, or has parameters.
    """
    count = len(default)
    chosen = names[direction * count : (direction + 1) * count] if names else default
    unknown = [name for name in chosen if name not in _FUNCTIONS]
    if len(chosen) != count or unknown or parameters:
        raise ImportModelError(
            f"its activations are {', '.join(names)}, but only {', '.join(_FUNCTIONS)} are taken, "
            f"without parameters, {count} for each direction"
        )
    return [_FUNCTIONS[name] for name in chosen]


def _run(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None,
    lengths: Constant | None,
    initial: list[Tensor | None],
    direction: Direction,
    clip: float | None,
    layout: int,
    step: Callable[[_Weights, int], Step],
) -> tuple[Tensor, ...]:
    """All directions; returns the hidden states of all steps, and the last of each state.

    Args:
        x: ``[steps, batch, input]``, with layout 1 ``[batch, steps, input]``.
        w: ``[directions, gates * hidden, input]``.
        r: ``[directions, gates * hidden, hidden]``.
        b: ``[directions, 2 * gates * hidden]``, None for zeros.
        lengths: of the sequences.
        initial: of each state, ``[directions, batch, hidden]`` or, with layout 1, batch first.
        direction: one direction or both.
        clip: as the attribute.
        layout: as the attribute.
        step: makes a step of the weights of a direction.

    Raises:
        ImportModelError: an attribute or input is not taken.
    """
    directions = 2 if direction == "bidirectional" else 1
    if x.ndim != 3 or w.ndim != 3 or r.ndim != 3 or not w.shape[0] == r.shape[0] == directions:
        raise ImportModelError("its input and weights do not fit each other")
    if clip is not None:
        raise ImportModelError("it clips its gates, which is not taken: export it without clip")
    time = 1 if layout else 0
    steps = x.shape[time]
    if not isinstance(steps, int):
        raise ImportModelError(
            "its sequence has no fixed length: export it for one (batch_first=True keeps the batch "
            "in front)"
        )
    if lengths is not None and any(int(each) != steps for each in lengths.array.reshape(-1)):
        raise ImportModelError(
            f"its sequences have several lengths, but all must have the {steps} steps of the input"
        )
    found = []
    for number in range(directions):
        weights = _Weights(w, r, b, number)
        products = F.linear(x, weights.own, weights.own_bias)
        if any(each is None for each in initial):
            state: State | None = None
        else:
            state = tuple(
                each.select(1 if layout else 0, number) for each in initial if each is not None
            )
        backward = direction == "reverse" or number == 1
        order = range(steps - 1, -1, -1) if backward else range(steps)
        one, hidden = step(weights, number), {}
        for index in order:
            state = one(products.select(time, index), state)
            hidden[index] = state[0]
        assert state is not None
        found.append((torch.stack([hidden[index] for index in range(steps)], time), state))
    axis = 1 if layout else 0
    whole = torch.stack([each for each, _ in found], 2 if layout else 1)
    last = [torch.stack(states, axis) for states in zip(*(s for _, s in found), strict=True)]
    return whole, *last


@operator("RNN", ignored=("hidden_size",))
def rnn(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Constant | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: tuple[float, ...] = (),
    activation_beta: tuple[float, ...] = (),
    activations: tuple[str, ...] = (),
    clip: float | None = None,
    direction: Direction = "forward",
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """``h = f(W x + R h + b)``."""

    def make(weights: _Weights, number: int) -> Step:
        parameters = activation_alpha + activation_beta
        (function,) = _functions(activations, ("Tanh",), number, parameters)

        def step(own: Tensor, state: State | None) -> State:
            h = None if state is None else state[0]
            return (function(own + weights.recurrent(h)),)

        return step

    return _run(x, w, r, b, sequence_lens, [initial_h], direction, clip, layout, make)


@operator("GRU", ignored=("hidden_size",))
def gru(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Constant | None = None,
    initial_h: Tensor | None = None,
    *,
    activation_alpha: tuple[float, ...] = (),
    activation_beta: tuple[float, ...] = (),
    activations: tuple[str, ...] = (),
    clip: float | None = None,
    direction: Direction = "forward",
    layout: int = 0,
    linear_before_reset: bool = False,
) -> tuple[Tensor, ...]:
    """Update z and reset r: ``h = (1 - z) g(...) + z h``.

    The reset is multiplied into the product of the hidden state, or, as Cho et al. wrote it, into
    the hidden state before the product.
    """

    def make(weights: _Weights, number: int) -> Step:
        parameters = activation_alpha + activation_beta
        f, g = _functions(activations, ("Sigmoid", "Tanh"), number, parameters)
        size = weights.hidden

        def step(own: Tensor, state: State | None) -> State:
            h = None if state is None else state[0]
            gates = f(own[:, : 2 * size] + weights.recurrent(h, 0, 2 * size))
            update, reset = gates[:, :size], gates[:, size:]
            if linear_before_reset:
                inner = reset * weights.recurrent(h, 2 * size)
            else:
                inner = weights.recurrent(None if h is None else reset * h, 2 * size)
            new = g(own[:, 2 * size :] + inner)
            made = (1.0 - update) * new
            return (made if h is None else made + update * h,)

        return step

    return _run(x, w, r, b, sequence_lens, [initial_h], direction, clip, layout, make)


@operator("LSTM", ignored=("hidden_size",))
def lstm(
    x: Tensor,
    w: Tensor,
    r: Tensor,
    b: Tensor | None = None,
    sequence_lens: Constant | None = None,
    initial_h: Tensor | None = None,
    initial_c: Tensor | None = None,
    p: Tensor | None = None,
    *,
    activation_alpha: tuple[float, ...] = (),
    activation_beta: tuple[float, ...] = (),
    activations: tuple[str, ...] = (),
    clip: float | None = None,
    direction: Direction = "forward",
    input_forget: bool = False,
    layout: int = 0,
) -> tuple[Tensor, ...]:
    """``c = f c + i g(...)``, ``h = o tanh(c)``; with p the gates see the cell, too."""
    if input_forget:
        raise ImportModelError("its input and forget gates are one, which is not taken")
    if (initial_h is None) != (initial_c is None):
        raise ImportModelError("it has one of initial_h and initial_c: give it both, or none")

    def make(weights: _Weights, number: int) -> Step:
        parameters = activation_alpha + activation_beta
        default = ("Sigmoid", "Tanh", "Tanh")
        f, g, h = _functions(activations, default, number, parameters)
        holes = [] if p is None else list(p[number].reshape(3, -1).unbind(0))

        def step(own: Tensor, state: State | None) -> State:
            hidden, before = (None, None) if state is None else state
            gates = own + weights.recurrent(hidden)
            enter, leave, keep, new = gates.split(weights.hidden, 1)
            if holes and before is not None:
                enter, keep = enter + holes[0] * before, keep + holes[2] * before
            cell = f(enter) * g(new)
            if before is not None:
                cell = f(keep) * before + cell
            if holes:
                leave = leave + holes[1] * cell
            return f(leave) * h(cell), cell

        return step

    states = [initial_h, initial_c]
    return _run(x, w, r, b, sequence_lens, states, direction, clip, layout, make)
