"""Attention, as newer exporters write it in one node."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tvm_insta.errors import ImportModelError
from tvm_insta.frontend.onnx.operators.registry import Context, operator


@operator("Attention", ignored=("softmax_precision",))
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    past_key: Tensor | None = None,
    past_value: Tensor | None = None,
    valid_lengths: Tensor | None = None,
    *,
    is_causal: bool = False,
    kv_num_heads: int = 0,
    left_window_size: int = -1,
    q_num_heads: int = 0,
    qk_matmul_output_mode: int = 0,
    right_window_size: int = -1,
    scale: float | None = None,
    softcap: float = 0.0,
    context: Context,
) -> Tensor:
    """Softmax of the products of queries and keys, times the values.

    Heads are an axis of their own, ``[batch, heads, length, size]``, or parts of the last one,
    ``[batch, length, heads * size]``.
    """
    if past_key is not None or past_value is not None or valid_lengths is not None:
        raise ImportModelError("it takes keys and values of earlier calls, which is not taken")
    if context.outputs > 1:
        raise ImportModelError("only its first output is taken")
    merged = q.ndim == 3
    if merged:
        q, k, v = _heads(q, q_num_heads), _heads(k, kv_num_heads), _heads(v, kv_num_heads)
    if not q.ndim == k.ndim == v.ndim == 4 or q.shape[1] % k.shape[1]:
        raise ImportModelError("its queries, keys and values do not fit each other")
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        k, v = (each.repeat_interleave(groups, 1) for each in (k, v))
    factor = 1.0 / math.sqrt(q.shape[-1]) if scale is None else scale
    scores = torch.matmul(q, k.transpose(-1, -2)) * factor
    if softcap:
        scores = torch.tanh(scores / softcap) * softcap
    right = 0 if is_causal else right_window_size
    seen = torch.ones(q.shape[2], k.shape[2])
    if left_window_size >= 0:
        seen = seen.triu(-left_window_size)
    if right >= 0:
        seen = seen.tril(right)
    if left_window_size >= 0 or right >= 0:
        scores = torch.where(seen > 0, scores, -math.inf)
    if mask is not None:
        if mask.dtype == torch.bool:
            scores = torch.where(mask, scores, -math.inf)
        else:
            scores = scores + mask
    result = torch.matmul(torch.softmax(scores, -1), v)
    return result.transpose(1, 2).flatten(2) if merged else result


def _heads(x: Tensor, count: int) -> Tensor:
    if count < 1 or x.ndim != 3 or x.shape[2] % count:
        raise ImportModelError(f"{count} heads do not fit an input of shape {list(x.shape)}")
    return x.reshape(x.shape[0], x.shape[1], count, x.shape[2] // count).transpose(1, 2)
