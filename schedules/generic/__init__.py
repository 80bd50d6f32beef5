"""Rules that every CPU shares: convolutions, packing, fused consumers, element-wise code."""
