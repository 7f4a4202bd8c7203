"""Faults injected for real into a small sweep, which is then resumed and held against a clean one."""
