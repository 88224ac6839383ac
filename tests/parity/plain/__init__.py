"""Backbones and methods written straight from their formulas, to make goldens of shapes that no reference was run at.

Nothing here calls vitune or timm: a model is a dictionary of tensors and a class that uses them in order.
"""
