"""The way from an imported module to scheduled kernels: one file per pass, see `pipeline`."""
