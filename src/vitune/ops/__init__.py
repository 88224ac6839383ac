"""Numerical kernels that methods and files share, without knowledge of models."""
