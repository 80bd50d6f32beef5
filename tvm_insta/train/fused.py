"""What makes a training step fast: compiled blocks, and a batch normalisation that compiles well.

Blocks are compiled one by one, not the network at once. Blocks of one shape share their code, so
that ResNet-20 needs five compilations of one block in place of one of eighteen.

PyTorch decomposes batch normalisation into Welford's method, which divides for every vector of its
sum over N, H and W, and reads x once more. Here the sums of x and x^2 are taken in one pass. The
rounding of E[x^2] - E[x]^2 does not matter as long as the mean is not much larger than the
deviation, which holds for sums of +-1 products.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import distributed, nn

from tvm_insta.errors import TrainError
from tvm_insta.nn.blocks import MobileNetBlock, ResNetBlock


class _Normalise(torch.autograd.Function):
    """`(x - mean) / deviation * weight + bias` with the statistics of the batch."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, world: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        wide, share = x.float(), x.shape[1] / x.numel()
        mean = _sums(wide) * share
        square = _sums(wide * wide) * share
        if world > 1:
            mean, square = _average(mean, square, world)
        variance = (square - mean * mean).clamp(min=0.0)
        inverse = torch.rsqrt(variance + eps)
        ctx.world = world
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        scale = inverse * weight
        return wide * _wide(scale) + _wide(bias - mean * scale), mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        grad = grads[0]
        share = x.shape[1] / x.numel()
        normal = (x.float() - _wide(mean)) * _wide(inverse)
        for_bias, for_weight = _sums(grad), _sums(grad * normal)
        by_mean, by_square = for_bias * share, for_weight * share
        if ctx.world > 1:
            by_mean, by_square = _average(by_mean, by_square, ctx.world)
        inner = grad - _wide(by_mean) - normal * _wide(by_square)
        for_x = (inner * _wide(inverse * weight)).to(x.dtype)
        return for_x, for_weight, for_bias, None, None


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, 1, 1)


def _sums(values: torch.Tensor) -> torch.Tensor:
    """Sums over N, H and W, `[C]`; see `sum_to` for why rows and columns come first."""
    return values.sum(dim=(2, 3)).sum(dim=0)


def _average(
    one: torch.Tensor, other: torch.Tensor, world: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Average two `[C]` tensors over all processes, which have equally many images."""
    both = torch.stack([one, other])
    distributed.all_reduce(both)
    return both[0] / world, both[1] / world


class FusedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with one pass over x for its statistics; evaluation is PyTorch's.

    Attributes:
        world: Number of processes whose batches are normalised as one.
    """

    world: int = 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise.

        Args:
            x: `[N, C, H, W]` float32 or bfloat16.

        Returns:
            `[N, C, H, W]` float32.
        """
        if not self.training:
            return super().forward(x)
        normalise = _Normalise.apply if self.world == 1 else _uncompiled_normalise
        result, mean, variance = normalise(x, self.weight, self.bias, self.eps, self.world)
        assert self.running_mean is not None and self.running_var is not None
        momentum = 0.0 if self.momentum is None else self.momentum
        with torch.no_grad():
            count = self.world * (x.numel() // x.shape[1])
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(variance * (count / max(count - 1, 1)), momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        return torch.as_tensor(result)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _uncompiled_normalise(*arguments: Any) -> Any:
    """Run `_Normalise` where it talks to other processes, which compiled code does not."""
    return _Normalise.apply(*arguments)  # type: ignore[no-untyped-call]


def fuse_batch_norms(model: nn.Module, world: int) -> None:
    """Let every batch normalisation of a network take its statistics in one pass.

    Args:
        model: Changed in place; the names and values of its parameters stay.
        world: Number of processes whose batches are normalised as one.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = FusedBatchNorm2d
            setattr(module, "world", world)  # noqa: B010  mypy knows its old class only


def compile_blocks(model: nn.Module) -> None:
    """Let the residual blocks of a network go through `torch.compile`.

    Args:
        model: Changed in place; each block is compiled when it first runs.

    Raises:
        TrainError: There is no C++ compiler, which code for CPUs needs.
    """
    if next(model.parameters()).device.type == "cpu":
        from torch._inductor import cpp_builder, exc

        try:
            cpp_builder.get_cpp_compiler()
        except exc.InvalidCxxCompiler as error:
            raise TrainError(
                "torch.compile finds no C++ compiler: install g++ or clang++, name one in CXX, or "
                "give --no-compile (slower)"
            ) from error
    # Shapes of blocks, times real and binary weights: more than the eight that are the default.
    torch._dynamo.config.recompile_limit = 64
    for module in model.modules():
        if isinstance(module, ResNetBlock | MobileNetBlock):
            module.compile(dynamic=False)


def uncompiled() -> AbstractContextManager[Any]:
    """Run compiled blocks without their code: for hooks, and for shapes that come once."""
    eager: AbstractContextManager[Any] = torch.compiler.set_stance("force_eager")
    return eager
