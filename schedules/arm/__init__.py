"""Arm with NEON: AArch64 with and without dot products, and armv7."""
