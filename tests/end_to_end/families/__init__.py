"""Public binary networks, rewritten small: how each family writes what a compiler must see."""
