"""The coefficients of instance statistics, at a learning rate that fits the size of the statistic.

`a` of INSTA-Th and `g1` of INSTA-PReLU multiply E[X^3], and FC1 of INSTA-Th+ reads it. Where |X| is
3 the moment may be 30, where |X| is 0.1 it is 0.001. Adam moves every parameter by about the
learning rate, whatever its gradient: one rate for all coefficients moves some thresholds by far
more than the activations spread and others not at all.

So training behaves as if the statistic were divided by its root mean square r over training images,
per channel: as if the parameter were alpha = r a (*reconstructed*; the paper does not say how the
coefficients are trained). The gradient of alpha is that of a divided by r, and a step of alpha is r
times a step of a. The network itself keeps a, so that nothing has to be folded for deployment.

r changes as the network learns, and a third power changes fast: activations that grow by half make
it 3.4 times as large. With a kept, thresholds would then run away from the activations and the loss
become NaN, as it did. So r is measured again within an epoch, and a is divided by its growth: alpha
is what is kept, as a batch normalisation of the statistic would keep it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from tvm_insta.nn import InstaPReLU, InstaThreshold, InstaThresholdPlus, measure

# A channel that is constantly 0 has no statistic; its coefficient then has no effect either.
_SMALLEST = 1e-3


class Coefficients:
    """Scales gradients and steps of the coefficients of one network.

    Args:
        model: The network; its parameters are changed by `after_step`.
        rate: Factor on the learning rate of the coefficients.

    Attributes:
        divisors: Root mean square of the statistic that each parameter multiplies, in a shape that
            broadcasts against it.
    """

    def __init__(self, model: nn.Module, rate: float) -> None:
        self._rate = rate
        self._before: dict[torch.Tensor, torch.Tensor] = {}
        self._parameters: dict[str, tuple[torch.Tensor, ...]] = {
            name: tuple(_reading(module))
            for name, module in model.named_modules()
            if isinstance(module, InstaThreshold | InstaPReLU)
        }
        self.divisors: dict[torch.Tensor, torch.Tensor] = {}

    def watch(self, model: nn.Module) -> Watch:
        """Measure the statistics during the forward passes made inside the returned context.

        Args:
            model: The network.
        """
        return Watch(self, model)

    def forget(self) -> None:
        """Forget what was measured: the next measurement leaves the parameters alone."""
        self.divisors = {}

    @torch.no_grad()
    def set(self, name: str, mean_square: torch.Tensor) -> None:
        """Set the divisors of one module, and keep alpha where they were known.

        Args:
            name: Of the module.
            mean_square: Of its statistic, `[C]`.
        """
        root = mean_square.sqrt().clamp(min=_SMALLEST)
        for parameter in self._parameters[name]:
            # FC1's weight is [hidden, C]: its columns belong to the channels.
            known = self.divisors.get(parameter)
            if known is not None:
                parameter.mul_(known / root)
            self.divisors[parameter] = root

    def names(self) -> tuple[str, ...]:
        """Name the modules that have coefficients."""
        return tuple(self._parameters)

    @torch.no_grad()
    def before_step(self) -> None:
        """Turn the gradients into those of alpha; call before clipping and before the step."""
        self._before = {}
        for parameter, divisor in self.divisors.items():
            if parameter.grad is not None:
                parameter.grad.div_(divisor)
                self._before[parameter] = parameter.detach().clone()

    @torch.no_grad()
    def after_step(self) -> None:
        """Turn the steps of alpha into those of the parameters."""
        for parameter, before in self._before.items():
            step = (parameter - before) * (self._rate / self.divisors[parameter])
            parameter.copy_(before + step)


class Watch:
    """Context in which forward passes tell the size of every statistic.

    Args:
        coefficients: Gets the divisors when the context ends without an exception.
        model: The network.
    """

    def __init__(self, coefficients: Coefficients, model: nn.Module) -> None:
        self._coefficients = coefficients
        self._model = model
        self._squares: dict[str, list[torch.Tensor]] = {}
        self._hooks: list[Any] = []

    def __enter__(self) -> Watch:
        """Begin to watch."""
        for name in self._coefficients.names():
            module = self._model.get_submodule(name)
            self._squares[name] = []
            self._hooks.append(module.register_forward_pre_hook(self._hook(name)))
        return self

    def _hook(self, name: str) -> Any:
        def note(module: nn.Module, inputs: tuple[torch.Tensor | None, ...]) -> None:
            x, given = inputs[0], inputs[1] if len(inputs) > 1 else None
            assert x is not None
            m = measure(x, str(module.statistic)) if given is None else given
            self._squares[name].append(m.detach().square().mean(dim=0))

        return note

    def __exit__(self, kind: object, *rest: object) -> None:
        """End, and hand the root mean squares over."""
        for hook in self._hooks:
            hook.remove()
        if kind is None:
            for name, squares in self._squares.items():
                self._coefficients.set(name, torch.stack(squares).mean(dim=0))


def _reading(module: nn.Module) -> Iterator[torch.Tensor]:
    """Yield the parameters of a module that multiply its statistic."""
    if isinstance(module, InstaThreshold):
        yield module.a
    if isinstance(module, InstaThresholdPlus):
        yield module.fc1.weight
    if isinstance(module, InstaPReLU):
        yield module.g1
