"""Reductions, scans, orderings and products."""

# ruff: noqa: PLW0108 (a case's parameters name its inputs)

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

Function = Callable[..., torch.Tensor]

REDUCTIONS: dict[str, Function] = {
    f"{name} {dims} {'keep' if keep else 'drop'}": (
        lambda x, name=name, dims=dims, keep=keep: getattr(torch, name)(x, dims, keepdim=keep)
    )
    for name in "mean sum amax amin var std logsumexp".split()
    for dims in ((1,), (-1,), (2, 3), (1, 2, 3), (-2, -1), (1, 3))
    for keep in (False, True)
} | {
    f"{name} {dim} {'keep' if keep else 'drop'}": (
        lambda x, name=name, dim=dim, keep=keep: getattr(torch, name)(x, dim, keepdim=keep)
    )
    for name in "prod argmax argmin any all".split()
    for dim in (1, -1, 2)
    for keep in (False, True)
}

MORE_REDUCTIONS: dict[str, Function] = {
    "var population": lambda x: x.var((2, 3), unbiased=False),
    "var correction 2": lambda x: torch.var(x, (1, 2), correction=2),
    "var correction 0 keep": lambda x: torch.var(x, 1, correction=0, keepdim=True),
    "std population": lambda x: x.std((1, 2, 3), unbiased=False, keepdim=True),
    "var_mean": lambda x: torch.cat(torch.var_mean(x, (2, 3)), 1),
    "std_mean": lambda x: torch.cat(torch.std_mean(x, (2, 3)), 1),
    "var large mean": lambda x: (x + 1000).var((2, 3)),
    "aminmax": lambda x: torch.aminmax(x, dim=1).max,
    "max dim": lambda x: x.max(1)[0],
    "max dim keep": lambda x: x.max(-1, keepdim=True)[0],
    "max dim index": lambda x: x.max(1)[1],
    "min dim": lambda x: x.min(1)[0],
    "min dim index": lambda x: x.min(2)[1],
    "argmax first of equals": lambda i: i.argmax(1),
    "argmin first of equals": lambda i: i.argmin(1),
    "argmax flat": lambda x: x.flatten(1).argmax(1),
    "sum int": lambda i: i.sum(1),
    "sum int all but batch": lambda i: i.sum((1, 2, 3)),
    "sum bool": lambda b: b.sum((2, 3)),
    "sum uint8": lambda u: u.sum((1, 2, 3)),
    "sum dtype": lambda i: i.sum(1, dtype=torch.float32),
    "sum float64": lambda x: x.sum(1, dtype=torch.float64),
    "sum int8": lambda i: i.to(torch.int8).sum((1, 2, 3)),
    "mean dtype": lambda i: i.mean((2, 3), dtype=torch.float32),
    "mean of mask": lambda x: (x > 0).float().mean((1, 2, 3)),
    "mean of bool float": lambda b: b.float().mean(1),
    "prod int": lambda i: i.prod(1),
    "amax int": lambda i: i.amax((2, 3)),
    "amin int": lambda i: i.amin(1),
    "amax bool": lambda b: b.amax(1),
    "any int": lambda i: i.any(1),
    "all int": lambda i: i.all(1),
    "any bool": lambda b: b.any(1),
    "all bool": lambda b: b.all(2),
    "any dims": lambda b: b.flatten(1).any(1),
    "norm 2": lambda x: x.norm(2, dim=(2, 3)),
    "norm 1": lambda x: x.norm(1, dim=1),
    "norm inf": lambda x: x.norm(float("inf"), dim=1),
    "norm -inf": lambda x: x.norm(float("-inf"), dim=1),
    "norm 0": lambda x: torch.linalg.vector_norm(x, 0, dim=1),
    "norm 3": lambda x: torch.linalg.vector_norm(x, 3, dim=(1, 2, 3), keepdim=True),
    "norm 0.5": lambda p: torch.linalg.vector_norm(p, 0.5, dim=1),
    "norm default": lambda v: torch.linalg.vector_norm(v, dim=-1),
    "norm fro": lambda x: x.norm(dim=(2, 3), keepdim=True),
    "logsumexp large": lambda v: torch.logsumexp(v * 100, 1),
    "count_nonzero": lambda i: torch.count_nonzero(i, 1),
    "nansum": lambda x: torch.nansum(x, 1),
    "nanmean": lambda x: torch.nanmean(x, 1),
    "mean no dims kept": lambda x: x.flatten(1).mean(-1),
    "abs mean": lambda x: x.abs().mean((1, 2, 3), keepdim=True),
    "mean batch": lambda x: x - x.mean(0),
    "mean all": lambda x: x - x.mean(),
    "sum all": lambda x: x / x.abs().sum(),
    "max all": lambda x: x - x.max(),
    "min all": lambda x: x - x.min(),
    "var all": lambda x: x / x.var(),
    "std all": lambda x: x / x.std(),
    "any all": lambda x, b: x * b.any(),
    "all all": lambda x, b: x * b.all(),
    "prod all": lambda x: x + (x * 0.1 + 1).prod(),
    "amax all": lambda x: x - x.amax(),
    "norm all": lambda x: x / x.norm(),
    "argmax all": lambda x: x + x.argmax(),
}

SCANS: dict[str, Function] = {
    "cumsum": lambda v: v.cumsum(1),
    "cumsum channel": lambda x: x.cumsum(1),
    "cumsum int": lambda i: i.cumsum(-1),
    "cumsum bool": lambda b: b.cumsum(1),
    "cumsum dtype": lambda i: i.cumsum(1, dtype=torch.float32),
    "cumprod": lambda v: v.cumprod(1),
    "cummax": lambda v: v.cummax(1)[0],
    "cummin": lambda v: v.cummin(1)[0],
    "logcumsumexp": lambda v: v.logcumsumexp(1),
    "topk": lambda v: v.topk(3, 1)[0],
    "topk index": lambda v: (v + torch.arange(16) * 1e-3).topk(3, 1)[1],  # none are equal
    "topk both": lambda x: x.topk(4, -1)[0] + x.sort(-1, descending=True)[1][..., :4],
    "topk smallest": lambda v: v.topk(3, 1, largest=False)[0],
    "topk middle": lambda x: x.topk(2, 1)[0],
    "sort": lambda v: v.sort(1)[0],
    "sort index": lambda v: v.sort(1)[1],
    "sort descending": lambda v: v.sort(1, descending=True)[0],
    "sort middle": lambda x: x.sort(1)[0],
    "argsort": lambda v: v.argsort(1),
    "argsort descending": lambda v: v.argsort(1, descending=True),
    "median": lambda v: v.median(1)[0],
    "quantile": lambda v: v.quantile(0.3, dim=1),
    "kthvalue": lambda v: v.kthvalue(3, 1)[0],
    "mode": lambda i: i.mode(1)[0],
    "unique-free bincount": lambda i: F.one_hot(i.abs(), 6).sum(1),
    "tril": lambda x: x.tril(),
    "tril diagonal": lambda x: x.tril(-1),
    "triu": lambda x: x.triu(1),
    "tril int": lambda i: i.tril(2),
    "triu bool": lambda b: b.triu(),
    "diagonal": lambda x: x.diagonal(0, 2, 3),
    "diagonal offset": lambda x: x.diagonal(1, 2, 3),
    "diag_embed": lambda v: torch.diag_embed(v),
    "trace-like": lambda x: x.diagonal(0, 2, 3).sum(-1),
    "bucketize": lambda x: torch.bucketize(x, torch.tensor([-0.5, 0.0, 0.5])),
    "searchsorted": lambda x: torch.searchsorted(torch.tensor([-0.5, 0.0, 0.5]), x),
}

PRODUCTS: dict[str, Function] = {
    "linear": lambda v: F.linear(v, torch.linspace(-1, 1, 48).view(3, 16)),
    "linear bias": lambda v: F.linear(v, torch.linspace(-1, 1, 48).view(3, 16), torch.ones(3)),
    "linear tokens": lambda t: F.linear(t, torch.linspace(-1, 1, 48).view(3, 16), torch.ones(3)),
    "linear image": lambda x: F.linear(x, torch.linspace(-1, 1, 15).view(3, 5)),
    "matmul": lambda v: v @ torch.linspace(-1, 1, 48).view(16, 3),
    "matmul vector": lambda v: v @ torch.linspace(-1, 1, 16),
    "matmul left": lambda t: torch.linspace(-1, 1, 15).view(3, 5) @ t,
    "matmul vector left": lambda t: torch.linspace(-1, 1, 5) @ t,
    "matmul tokens": lambda t: t @ t.transpose(1, 2),
    "matmul images": lambda x: x @ x.transpose(2, 3),
    "matmul broadcast": lambda x: x @ torch.linspace(-1, 1, 40).view(8, 5, 1),
    "matmul by weights": lambda t: t @ torch.linspace(-1, 1, 48).view(16, 3),
    "mm of transposed": lambda v: (torch.linspace(-1, 1, 48).view(3, 16) @ v.t()).t(),
    "bmm": lambda t: torch.bmm(t, t.transpose(1, 2)),
    "baddbmm": lambda t: torch.baddbmm(t[:, :, :5], t, t.transpose(1, 2), beta=0.5, alpha=2.0),
    "baddbmm beta 0": lambda t: torch.baddbmm(t[:, :, :5], t, t.transpose(1, 2), beta=0),
    "addmm": lambda v: torch.addmm(torch.ones(3), v, torch.linspace(-1, 1, 48).view(16, 3)),
    "addmm factors": lambda v: torch.addmm(
        torch.ones(3), v, torch.linspace(-1, 1, 48).view(16, 3), beta=0.5, alpha=2.0
    ),
    "addmm beta 0": lambda v: torch.addmm(
        torch.full((3,), float("nan")), v, torch.linspace(-1, 1, 48).view(16, 3), beta=0
    ),
    "addmv": lambda v: torch.addmv(v[:, 0], v, torch.linspace(-1, 1, 16)),
    "mv": lambda v: torch.mv(v, torch.linspace(-1, 1, 16)),
    "dot-like": lambda v, w: (v * w).sum(1),
    "einsum product": lambda t: torch.einsum(
        "bti,oi->bto", t, torch.linspace(-1, 1, 48).view(3, 16)
    ),
    "einsum pair": lambda t: torch.einsum("bti,bsi->bts", t, t),
    "einsum channels": lambda x: torch.einsum("bchw,c->bhw", x, torch.linspace(-1, 1, 8)),
    "einsum outer": lambda v: torch.einsum("bi,bj->bij", v, v),
    "einsum sum": lambda x: torch.einsum("bchw->bc", x),
    "einsum transpose": lambda x: torch.einsum("bchw->bwhc", x),
    "einsum images": lambda x: torch.einsum("bchw,bcwk->bchk", x, x.transpose(2, 3)),
    "tensordot": lambda t: torch.tensordot(t, torch.linspace(-1, 1, 48).view(16, 3), 1),
    "outer weights": lambda v: v * torch.outer(torch.ones(1), torch.linspace(-1, 1, 16)),
    "bilinear": lambda v, w: F.bilinear(v, w, torch.linspace(-1, 1, 512).view(2, 16, 16)),
    "cdist-like": lambda t: ((t[:, :, None] - t[:, None]) ** 2).sum(-1),
    "attention": lambda t: F.scaled_dot_product_attention(t, t, t),
    "attention heads": lambda t: F.scaled_dot_product_attention(
        *(t.view(t.shape[0], 5, 4, 4).transpose(1, 2) for _ in range(3))
    ),
    "attention causal": lambda t: F.scaled_dot_product_attention(t, t, t, is_causal=True),
    "attention causal heads": lambda t: F.scaled_dot_product_attention(
        *(t.view(t.shape[0], 5, 4, 4).transpose(1, 2) for _ in range(3)), is_causal=True
    ),
    "attention mask": lambda t: F.scaled_dot_product_attention(
        t, t, t, attn_mask=torch.eye(5, dtype=torch.bool)
    ),
    "attention float mask": lambda t: F.scaled_dot_product_attention(
        t, t, t, attn_mask=torch.linspace(-1, 1, 25).view(5, 5)
    ),
    "attention scale": lambda t: F.scaled_dot_product_attention(t, t, t, scale=0.3),
    "attention heads mask scale": lambda t: F.scaled_dot_product_attention(
        *(t.view(t.shape[0], 5, 4, 4).transpose(1, 2) for _ in range(3)),
        attn_mask=torch.linspace(-1, 1, 25).view(5, 5),
        scale=0.3,
    ),
    "attention gqa": lambda t: F.scaled_dot_product_attention(
        t.view(t.shape[0], 5, 4, 4).transpose(1, 2),
        t[..., :8].reshape(t.shape[0], 5, 2, 4).transpose(1, 2),
        t[..., 8:].reshape(t.shape[0], 5, 2, 4).transpose(1, 2),
        enable_gqa=True,
    ),
}
