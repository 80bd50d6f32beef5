"""Cards: measured where there is one, counted where there is none; see `__main__`."""
