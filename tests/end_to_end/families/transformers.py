"""BiBERT, BinaryViT and BiT: binary dense layers on [N, T, C], products of binarised tensors."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from tests.end_to_end.families.common import Binary, Family


class BinaryQuantizer(torch.autograd.Function):
    """The sign, with a gradient inside -1..1."""

    @staticmethod
    def forward(ctx, input):
        ctx.save_for_backward(input)
        return torch.sign(input)

    @staticmethod
    def backward(ctx, gradient):
        (input,) = ctx.saved_tensors
        gradient = gradient.clone()
        gradient[input.ge(1)] = 0
        gradient[input.le(-1)] = 0
        return gradient


class ZeroOneQuantizer(torch.autograd.Function):
    """BiBERT's attention: 0 or 1."""

    @staticmethod
    def forward(ctx, input):
        ctx.save_for_backward(input)
        result = torch.sign(input)
        result[result == -1] = 0
        return torch.where(input == 0, torch.ones_like(result), result)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


class ElasticSigned(nn.Module):
    """BiT: a learned scale, and a shift per channel, about the sign."""

    def __init__(self, channels):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(0.8))
        self.shift = nn.Parameter(torch.randn(channels) * 0.1)

    def forward(self, x):
        eps = torch.tensor(0.00001).float().to(self.alpha.device)
        alpha = torch.where(self.alpha > eps, self.alpha, eps)
        assert alpha > 0, f"alpha = {alpha} is not positive"
        return (x + self.shift).sign() * alpha


class ElasticUnsigned(nn.Module):
    """BiT: ``alpha * round(clamp((x - beta) / alpha, 0, 1))``, for what is not negative."""

    def __init__(self):
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.tensor(0.6)), nn.Parameter(torch.tensor(0.05))

    def forward(self, x):
        eps = torch.tensor(0.00001).float().to(self.alpha.device)
        alpha = torch.where(self.alpha > eps, self.alpha, eps)
        assert alpha > 0, f"alpha = {alpha} is not positive"
        scaled = (x - self.beta) / alpha
        return (scaled.clamp(0.0, 1.0)).round() * alpha


class QuantizeLinear(nn.Linear, Binary):
    """Centred weights, +-1 times the mean magnitude of each row; the bias is expanded."""

    def __init__(self, inputs, outputs, quantiser=None):
        super().__init__(inputs, outputs)
        self.input_quantizer = quantiser
        with torch.no_grad():
            self.weight.mul_(4.0)

    def forward(self, input):
        scale = torch.mean(abs(self.weight), dim=1, keepdim=True).detach()
        real = self.weight - torch.mean(self.weight, dim=-1, keepdim=True)
        hard = scale * torch.sign(real)
        soft = torch.clamp(real, -1.0, 1.0)
        weight = hard.detach() - soft.detach() + soft
        if self.input_quantizer is None:
            bits, clipped = torch.sign(input), torch.clamp(input, -1.0, 1.0)
            input = bits.detach() - clipped.detach() + clipped
        else:
            input = self.input_quantizer(input)
        out = F.linear(input, weight)
        out += self.bias.view(1, -1).expand_as(out)
        return out


class Product(Binary):
    """A product of two binarised tensors."""

    def forward(self, left, right):
        return torch.matmul(left, right)


class SelfAttention(nn.Module):
    """Queries, keys and values are binarised; so are the attention probabilities."""

    def __init__(self, channels, heads, elastic):
        super().__init__()
        self.heads, self.size = heads, channels // heads

        def quantiser():
            return ElasticSigned(channels) if elastic else None

        self.query = QuantizeLinear(channels, channels, quantiser())
        self.key = QuantizeLinear(channels, channels, quantiser())
        self.value = QuantizeLinear(channels, channels, quantiser())
        self.scores, self.context = Product(), Product()
        self.unsigned = ElasticUnsigned() if elastic else None

    def split(self, x):
        """``[N, T, C] -> [N, heads, T, C / heads]``."""
        x = x.view(*x.size()[:-1], self.heads, self.size)
        return x.permute(0, 2, 1, 3)

    def forward(self, x):
        query, key, value = (
            BinaryQuantizer.apply(self.split(layer(x)))
            for layer in (self.query, self.key, self.value)
        )
        scores = self.scores(query, key.transpose(-1, -2)) / math.sqrt(self.size)
        if self.unsigned is None:
            probs = ZeroOneQuantizer.apply(scores)
        else:
            probs = self.unsigned(nn.Softmax(dim=-1)(scores) * 8)
        context = self.context(probs, value).permute(0, 2, 1, 3).contiguous()
        return context.view(*context.size()[:-2], self.heads * self.size)


class Layer(nn.Module):
    """Attention and feed-forward, each with a shortcut and a layer norm behind it."""

    def __init__(self, channels, heads, elastic):
        super().__init__()
        self.attention = SelfAttention(channels, heads, elastic)
        signed = ElasticSigned(channels) if elastic else None
        self.dense = QuantizeLinear(channels, channels, signed)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        signed = ElasticSigned(channels) if elastic else None
        self.intermediate = QuantizeLinear(channels, 2 * channels, signed)
        self.output = QuantizeLinear(2 * channels, channels, ElasticUnsigned() if elastic else None)

    def forward(self, x):
        x = self.norm1(self.dense(self.attention(x)) + x)
        hidden = F.relu(self.intermediate(x)) if self.attention.unsigned else self.intermediate(x)
        return self.norm2(self.output(hidden) + x)


class Patches(nn.Module):
    """Pixels to vectors with positions."""

    def __init__(self, channels, size=8):
        super().__init__()
        self.proj = nn.Conv2d(3, channels, kernel_size=size, stride=size)
        self.cls_token = nn.Parameter(torch.randn(1, 1, channels))
        self.positions = nn.Parameter(torch.randn(1, (32 // size) ** 2 + 1, channels) * 0.5)

    def forward(self, x):
        x = self.proj(x).flatten(2).transpose(1, 2)
        cls = self.cls_token.expand(x.shape[0], -1, -1)
        return torch.cat((cls, x), dim=1) + self.positions


class Transformer(nn.Module):
    """Patches, layers, the class token's classifier."""

    def __init__(self, elastic):
        super().__init__()
        self.embeddings = Patches(32)
        self.layers = nn.ModuleList(Layer(32, 4, elastic) for _ in range(2))
        self.classifier = nn.Linear(32, 10)

    def forward(self, x):
        x = self.embeddings(x)
        for layer in self.layers:
            x = layer(x)
        return self.classifier(x[:, 0])


class ShiftedSign(nn.Module):
    """BinaryViT's activation: a shift per channel before the sign."""

    def __init__(self, channels):
        super().__init__()
        self.bias = nn.Parameter(torch.randn(channels) * 0.1)

    def forward(self, x):
        return BinaryQuantizer.apply(x + self.bias.expand_as(x))


class RPReLU(nn.Module):
    """A PReLU over the last dimension between two shifts."""

    def __init__(self, channels):
        super().__init__()
        self.move1 = nn.Parameter(torch.randn(channels) * 0.1)
        self.prelu = nn.PReLU(channels)
        self.move2 = nn.Parameter(torch.randn(channels) * 0.1)

    def forward(self, x):
        y = self.prelu((x - self.move1).transpose(-1, -2)).transpose(-1, -2)
        return y + self.move2


class ViTMlp(nn.Module):
    """Expands by repeating the shortcut and reduces by averaging it: no float product."""

    def __init__(self, channels, ratio=2):
        super().__init__()
        self.fc1 = QuantizeLinear(channels, channels * ratio, ShiftedSign(channels))
        self.fc2 = QuantizeLinear(channels * ratio, channels, ShiftedSign(channels * ratio))
        self.norm1, self.norm2 = nn.LayerNorm(channels * ratio), nn.LayerNorm(channels)
        self.act1, self.act2, self.ratio = RPReLU(channels * ratio), RPReLU(channels), ratio

    def forward(self, x):
        wide = torch.cat([x] * self.ratio, dim=-1)
        wide = self.act1(self.norm1(self.fc1(x)) + wide)
        narrow = F.avg_pool1d(wide, self.ratio)
        return self.act2(self.norm2(self.fc2(wide)) + narrow)


class BinaryViT(nn.Module):
    """A pyramid without class token: global average at the end."""

    def __init__(self):
        super().__init__()
        self.embeddings = Patches(32)
        self.attention = SelfAttention(32, 2, elastic=False)
        self.norm, self.mlp = nn.LayerNorm(32), ViTMlp(32)
        self.head = nn.Linear(32, 10)

    def forward(self, x):
        x = self.embeddings(x)
        x = x + self.attention(self.norm(x)) * 0.1
        return self.head(self.mlp(x).mean(dim=1))


FAMILIES = [
    Family("BiBERT", lambda: Transformer(elastic=False)),
    Family("BiT", lambda: Transformer(elastic=True)),
    Family("BinaryViT", BinaryViT),
]
