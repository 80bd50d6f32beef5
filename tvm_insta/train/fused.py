"""What makes a training step fast: compiled blocks, and a batch normalisation that compiles well.

Blocks are compiled one by one, not the network at once. Blocks of one shape share their code, so
that ResNet-20 needs five compilations of one block in place of one of eighteen.

PyTorch's decomposition takes the variance by Welford's method, which divides for every vector of a
sum over N, H and W; on a CPU that costs more than all other element-wise work of a block. Here the
sums of x and x^2 are taken in one pass. The rounding of E[x^2] - E[x]^2 does not matter as long as
the mean is not much larger than the deviation, which holds for sums of +-1 products.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from tvm_insta.nn.blocks import MobileNetBlock, ResNetBlock

_OVER = (0, 2, 3)


class _Normalise(torch.autograd.Function):
    """`(x - mean) / deviation * weight + bias` with the statistics of the batch."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        wide = x.float()
        mean = wide.mean(dim=_OVER)
        variance = ((wide * wide).mean(dim=_OVER) - mean * mean).clamp(min=0.0)
        inverse = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        scale = inverse * weight
        return wide * _wide(scale) + _wide(bias - mean * scale), mean, variance

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        grad = grads[0]
        count = x.numel() // x.shape[1]
        normal = (x.float() - _wide(mean)) * _wide(inverse)
        for_bias = grad.sum(dim=_OVER)
        for_weight = (grad * normal).sum(dim=_OVER)
        inner = grad - _wide(for_bias / count) - normal * _wide(for_weight / count)
        for_x = (inner * _wide(inverse * weight)).to(x.dtype)
        return for_x, for_weight, for_bias, None


def _wide(values: torch.Tensor) -> torch.Tensor:
    return values.view(1, -1, 1, 1)


class FusedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` with one pass over x for its statistics; evaluation is PyTorch's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalise.

        Args:
            x: `[N, C, H, W]` float32 or bfloat16.

        Returns:
            `[N, C, H, W]` float32.
        """
        if not self.training:
            return super().forward(x)
        result, mean, variance = _Normalise.apply(  # type: ignore[no-untyped-call]
            x, self.weight, self.bias, self.eps
        )
        assert self.running_mean is not None and self.running_var is not None
        momentum = 0.0 if self.momentum is None else self.momentum
        with torch.no_grad():
            count = x.numel() // x.shape[1]
            unbiased = variance * (count / max(count - 1, 1))
            self.running_mean.lerp_(mean, momentum)
            self.running_var.lerp_(unbiased, momentum)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        return torch.as_tensor(result)


def fuse_batch_norms(model: nn.Module) -> None:
    """Let every batch normalisation of a network take its statistics in one pass.

    Args:
        model: Changed in place; the names and values of its parameters stay.
    """
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = FusedBatchNorm2d


def compile_blocks(model: nn.Module) -> None:
    """Let the residual blocks of a network go through `torch.compile`.

    Args:
        model: Changed in place; each block is compiled when it first runs.
    """
    # Shapes of blocks, times real and binary weights: more than the eight that are the default.
    torch._dynamo.config.recompile_limit = 64
    for module in model.modules():
        if isinstance(module, ResNetBlock | MobileNetBlock):
            module.compile(dynamic=False)


def uncompiled() -> AbstractContextManager[Any]:
    """Run compiled blocks without their code: for hooks, and for shapes that come once."""
    return torch.compiler.set_stance("force_eager")
