"""Tuning records that ship with the package, one folder per canonical target (none yet)."""
