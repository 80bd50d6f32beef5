"""Shape operators, indexing, padding and resampling."""

# ruff: noqa: PLW0108 (a case's parameters name its inputs)

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Function = Callable[..., torch.Tensor]

SHAPES: dict[str, Function] = {
    "view": lambda x: x.view(x.shape[0], 8, 30),
    "view -1": lambda x: x.view(x.shape[0], -1),
    "view size": lambda x: x.view(x.size(0), 2, 4, 6, 5),
    "view batch -1": lambda x: x.view(-1, 240),
    "view folded batch": lambda x: x.view(-1, 5).view(x.shape[0], 8, 6, 5) + 1,
    "reshape of transpose": lambda x: x.transpose(1, 3).reshape(x.shape[0], -1),
    "reshape twice": lambda x: x.reshape(x.shape[0], 16, 15).reshape(x.shape[0], 4, 60),
    "reshape batch product": lambda x: x.reshape(x.shape[0] * 8, 30).mean(1).reshape(x.shape[0], 8),
    "view_as": lambda x: x.flatten(1).view_as(x),
    "flatten": lambda x: x.flatten(1),
    "flatten middle": lambda x: x.flatten(1, 2),
    "flatten last": lambda x: x.flatten(-2),
    "flatten batch": lambda x: x.flatten(0, 1).sum(1).view(x.shape[0], 8, 5),
    "unflatten": lambda v: v.unflatten(1, (4, 4)),
    "unflatten -1": lambda v: v.unflatten(-1, (2, -1)),
    "permute": lambda x: x.permute(0, 2, 3, 1),
    "permute negative": lambda x: x.permute(0, -1, 1, -2),
    "permute batch": lambda x: x.permute(1, 0, 2, 3).sum(0),
    "transpose": lambda x: x.transpose(1, -1),
    "transpose batch": lambda v: v.transpose(0, 1).transpose(0, 1) + 1,
    "t": lambda v: v.t().t() * 2,
    "mT": lambda x: x.mT,
    "movedim": lambda x: x.movedim(1, -1),
    "swapaxes": lambda x: x.swapaxes(1, 2),
    "squeeze dim": lambda x: x.mean(2, keepdim=True).squeeze(2),
    "squeeze not one": lambda x: x.squeeze(1),
    "squeeze dims": lambda x: x.mean((2, 3), keepdim=True).squeeze((2, 3)),
    "squeeze dims some": lambda x: x.mean(2, keepdim=True).squeeze((1, 2)),
    "squeeze": lambda x: x.mean((2, 3), keepdim=True).squeeze(),
    "squeeze last": lambda x: x.mean(-1, keepdim=True).squeeze(-1),
    "unsqueeze": lambda x: x.unsqueeze(1),
    "unsqueeze last": lambda x: x.unsqueeze(-1),
    "unsqueeze negative": lambda x: x.unsqueeze(-3),
    "None index": lambda v: v[:, None, :, None],
    "expand": lambda v: v[:, :, None].expand(-1, -1, 3),
    "expand sizes": lambda v: v[:, None].expand(v.shape[0], 4, 16),
    "expand new dims": lambda v: v.expand(3, -1, -1).sum(0),
    "expand_as": lambda x: x[:, :, :1, :1].expand_as(x) + x,
    "expand_as bias": lambda x: x + torch.linspace(0, 1, 8).view(1, 8, 1, 1).expand_as(x),
    "expand bias": lambda x: x - torch.linspace(0, 1, 8).view(8, 1, 1).expand(x.shape),
    "expand alone": lambda x: torch.linspace(0, 1, 8).view(1, 8, 1, 1).expand_as(x) * 1.0,
    "expand in where": lambda x: torch.where(x > 0, x, torch.zeros(1).expand_as(x)),
    "broadcast_to": lambda x: torch.broadcast_to(x[:, :1], x.shape),
    "ones of batch": lambda x: torch.ones(x.shape[0], 8, 6, 5) * x,
    "cls token": lambda t: torch.cat([torch.ones(1, 1, 16).expand(t.shape[0], -1, -1), t], 1),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "repeat cls token": lambda t: torch.cat([torch.ones(1, 1, 16).repeat(t.shape[0], 2, 1), t], 1),
    "repeat matrix": lambda t: t @ torch.linspace(-1, 1, 256).view(16, 16).repeat(len(t), 1, 1),
    "repeat flat": lambda d: (
        d + torch.arange(16.0).view(1, 16).repeat(len(d), 1).view(-1, 4, 4, 1, 1)
    ),
    "tile batch": lambda t: t + torch.tile(torch.linspace(-1, 1, 16), (len(t), 1, 1)),
    "repeat rank": lambda v: v.repeat(2, 1, 3).sum(0),
    "repeat space": lambda x: x.repeat(1, 1, 2, 3),
    "tile": lambda x: x.tile(1, 2, 1, 2),
    "tile short": lambda x: x.tile(2),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "repeat_interleave last": lambda x: x.repeat_interleave(3, -1),
    "roll": lambda x: x.roll(1, 1),
    "roll negative": lambda x: x.roll(-2, 3),
    "roll two": lambda x: x.roll((1, -2), (2, 3)),
    "roll wraps": lambda x: x.roll(17, 2),
    "flip": lambda x: x.flip(1),
    "flip two": lambda x: x.flip((2, -1)),
    "fliplr-like": lambda x: x.flip(-1),
    "rot90": lambda x: x.rot90(1, (2, 3)),
    "cat": lambda x, y: torch.cat([x, y], 1),
    "cat last": lambda x, y: torch.cat([x, y, x], -1),
    "cat mixed": lambda x, i: torch.cat([x, i], 1),
    "cat batch": lambda v, w: torch.cat([v, w], 0).view(2, v.shape[0], 16).sum(0),
    "cat constant": lambda x: F.pad(torch.cat([x, x * 0], 1), (0, 0)),
    "stack": lambda x, y: torch.stack([x, y], 1),
    "stack last": lambda x, y: torch.stack([x, y], -1),
    "hstack": lambda v, w: torch.hstack([v, w]),
    "split": lambda x: torch.cat(x.split(3, 1)[::-1], 1),
    "split sizes": lambda x: torch.cat(x.split([1, 5, 2], 1)[::-1], 1),
    "split last": lambda x: x.split(2, -1)[2],
    "chunk": lambda x: x.chunk(2, 1)[0] * x.chunk(2, 1)[1],
    "chunk uneven": lambda x: x.chunk(3, 1)[2],
    "tensor_split": lambda x: x.tensor_split(3, 1)[0],
    "unbind": lambda x: x.unbind(1)[3],
    "slice": lambda x: x[:, 1:5],
    "slice step": lambda x: x[:, ::2, 1::2],
    "slice negative": lambda x: x[:, -3:, :-1],
    "slice beyond": lambda x: x[:, 2:100],
    "slice image": lambda x: x[:, :, ::2, ::2],
    "slice empty step": lambda x: x[..., 1:-1],
    "select": lambda x: x[:, 2],
    "select negative": lambda x: x[:, -1],
    "select two": lambda x: x[:, 1, :, -2],
    "select ellipsis": lambda x: x[..., 0],
    "narrow": lambda x: x.narrow(1, 2, 3),
    "narrow negative": lambda x: x.narrow(-1, -3, 2),
    "gather": lambda x, i: x.gather(1, i.abs() % 8),
    "gather last": lambda x, i: x.gather(-1, i.abs() % 5),
    "take_along_dim": lambda x, i: torch.take_along_dim(x, i.abs() % 8, 1),
    "index_select": lambda x: x.index_select(1, torch.tensor([3, 0, 7, 7])),
    "index_select last": lambda x: x.index_select(-1, torch.tensor([4, 1])),
    "index list": lambda x: x[:, [3, 0, 5]],
    "index negative": lambda x: x[:, [-1, -8]],
    "index two": lambda x: x[:, [0, 1], [2, 3]],
    "index apart": lambda x: x[:, [0, 1], :, [2, 3]],
    "index grid": lambda x: x[:, torch.arange(3)[:, None], torch.arange(4)],
    "index tensor": lambda x: x[:, :, torch.tensor([[0, 1], [2, 3]])],
    "embedding": lambda i: F.embedding(i.abs() % 6, torch.linspace(-1, 1, 24).view(6, 4)),
    "embedding padding": lambda i: F.embedding(
        i.abs() % 6, torch.linspace(-1, 1, 24).view(6, 4), padding_idx=0
    ),
    "lookup": lambda i: torch.linspace(-1, 1, 9)[i + 4],
    "take": lambda i: torch.take(torch.linspace(-1, 1, 9), i + 4),
    "one_hot": lambda i: F.one_hot(i.abs() % 5, 5),
    "scatter": lambda x, i: torch.zeros_like(x).scatter(1, i.abs() % 1, x),
    "scatter_add": lambda v: torch.zeros_like(v).scatter_add(1, (v > 0).long(), v),
    "index_add": lambda v: v.index_add(1, torch.tensor([0, 2]), v[:, :2]),
    "index_fill": lambda v: v.index_fill(1, torch.tensor([0, 2]), 7.0),
    "index_copy": lambda v: v.index_copy(1, torch.tensor([0, 2]), v[:, 3:5]),
    "slice assignment": lambda x: _assigned_slice(x),
    "column assignment": lambda x: _assigned_column(x),
    "masked select free": lambda x: (x * (x > 0)).sum(1),
    "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: F.pixel_unshuffle(x[:, :, :, :4], 2),
    "channel_shuffle": lambda x: F.channel_shuffle(x, 4),
    "channel shuffle by hand": lambda x: (
        x.view(x.shape[0], 2, 4, 6, 5).transpose(1, 2).reshape(x.shape[0], 8, 6, 5)
    ),
    "unfold": lambda x: F.unfold(x, 3),
    "unfold attributes": lambda x: F.unfold(x, (2, 3), dilation=(1, 2), padding=1, stride=(2, 1)),
    "unfold dimension": lambda x: x.unfold(2, 3, 2),
    "unfold dimensions": lambda x: x.unfold(-1, 2, 3).unfold(1, 8, 1),
    "fold attributes": lambda x: F.fold(
        F.unfold(x, (2, 3), (1, 2), (1, 2), (2, 1)), (6, 5), (2, 3), (1, 2), (1, 2), (2, 1)
    ),
    "fold uneven": lambda x: F.fold(x.reshape(-1, 16, 15), (9, 7), 2, stride=(2, 3), padding=1),
    "fold": lambda x: F.fold(F.unfold(x, 2, stride=2, padding=(0, 0)), (6, 4), 2, stride=2),
    "meshgrid": lambda x: (
        x + torch.meshgrid(torch.arange(6.0), torch.arange(5.0), indexing="ij")[0]
    ),
    "as_strided free": lambda x: x[:, :, 1:][:, :, :-1],
    "atleast": lambda v: torch.atleast_3d(v),
    "row sums": lambda x: x.sum((2, 3)),
}

PADDING: dict[str, Function] = {
    "constant": lambda x: F.pad(x, (1, 2, 3, 0)),
    "constant value": lambda x: F.pad(x, (1, 1), value=-1.0),
    "constant inf": lambda x: F.pad(x, (1, 1), value=float("-inf")),
    "constant negative": lambda x: F.pad(x, (-1, 2, 1, -2)),
    "constant channels": lambda x: F.pad(x, (0, 0, 0, 0, 2, 3)),
    "constant int": lambda i: F.pad(i, (1, 1), value=3),
    "constant bool": lambda b: F.pad(b, (1, 1), value=True),
    "constant vector": lambda v: F.pad(v, (1, 2)),
    "reflect": lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"),
    "reflect 1-D": lambda s: F.pad(s, (3, 1), mode="reflect"),
    "reflect negative": lambda x: F.pad(x, (1, -1, 2, 0), mode="reflect"),
    "replicate": lambda x: F.pad(x, (1, 2, 3, 9), mode="replicate"),
    "replicate 1-D": lambda s: F.pad(s, (3, 14), mode="replicate"),
    "replicate 3-D": lambda d: F.pad(d, (1, 1, 0, 2, 3, 0), mode="replicate"),
    "circular": lambda x: F.pad(x, (1, 2, 3, 1), mode="circular"),
    "circular 1-D": lambda s: F.pad(s, (3, 1), mode="circular"),
    "circular full": lambda x: F.pad(x, (5, 5, 6, 0), mode="circular"),
    "zero pad module": lambda x: torch.nn.ZeroPad2d((1, 0, 2, 1))(x),
    "reflect module": lambda x: torch.nn.ReflectionPad2d(2)(x),
    "constant then slice": lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)),
}

RESAMPLING: dict[str, Function] = {
    "nearest": lambda x: F.interpolate(x, scale_factor=2),
    "nearest 3": lambda x: F.interpolate(x, scale_factor=(3, 1)),
    "nearest size": lambda x: F.interpolate(x, size=(9, 7)),
    "nearest down": lambda x: F.interpolate(x, size=(4, 3)),
    "nearest scale fraction": lambda x: F.interpolate(x, scale_factor=1.7),
    "nearest scale fraction recompute": lambda x: F.interpolate(
        x, scale_factor=1.7, recompute_scale_factor=True
    ),
    "nearest-exact": lambda x: F.interpolate(x, size=(9, 7), mode="nearest-exact"),
    "nearest 1-D": lambda s: F.interpolate(s, scale_factor=2),
    "nearest 3-D": lambda d: F.interpolate(d, scale_factor=2),
    "bilinear": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "bilinear aligned": lambda x: F.interpolate(
        x, scale_factor=2, mode="bilinear", align_corners=True
    ),
    "bilinear size": lambda x: F.interpolate(x, size=(9, 7), mode="bilinear"),
    "bilinear down": lambda x: F.interpolate(x, size=(3, 2), mode="bilinear"),
    "bilinear scale fraction": lambda x: F.interpolate(x, scale_factor=1.7, mode="bilinear"),
    "bilinear antialias": lambda x: F.interpolate(x, size=(3, 2), mode="bilinear", antialias=True),
    "linear": lambda s: F.interpolate(s, scale_factor=2, mode="linear"),
    "trilinear": lambda d: F.interpolate(d, scale_factor=2, mode="trilinear"),
    "bicubic": lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"),
    "bicubic size": lambda x: F.interpolate(x, size=(9, 7), mode="bicubic"),
    "bicubic aligned": lambda x: F.interpolate(x, size=(9, 7), mode="bicubic", align_corners=True),
    "area": lambda x: F.interpolate(x, size=(3, 2), mode="area"),
    "grid_sample bicubic": lambda x: F.grid_sample(
        x, places(x), mode="bicubic", align_corners=False
    ),
    "grid_sample reflection": lambda x: F.grid_sample(
        x, places(x), padding_mode="reflection", align_corners=True
    ),
    "Upsample module": lambda x: torch.nn.Upsample(scale_factor=2)(x),
}


def places(x: torch.Tensor) -> torch.Tensor:
    """A grid ``[N, 6, 5, 2]`` in an image and somewhat beyond; a few lie between two pixels."""
    grid = torch.tanh(x[:, :2].permute(0, 2, 3, 1)) * 1.3
    return torch.where(grid > 0.9, torch.where(grid > 1.1, 1.0, 0.6), grid)


def _sampled(mode: str, padding: str, aligned: bool) -> Function:
    return lambda x: F.grid_sample(x * 0.5, places(x), mode, padding, aligned)


SAMPLING: dict[str, Function] = {
    f"grid_sample {mode} {padding}{' aligned' if aligned else ''}": _sampled(mode, padding, aligned)
    for mode in ("bilinear", "nearest")
    for padding in ("zeros", "border")
    for aligned in (False, True)
}


def _assigned_slice(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 1:3] = 0.5
    return y


def _assigned_column(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, :, 0] = x[:, :, 1]
    return y
