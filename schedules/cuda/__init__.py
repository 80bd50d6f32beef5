"""CUDA: blocks of threads in place of vectors."""
