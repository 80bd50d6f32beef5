"""x86-64: AVX-512, AVX2, SSE, and AMX tiles."""
