"""Tornado handlers, which translate between HTTP and the core, and do nothing else."""
