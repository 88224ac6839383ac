"""Goldens of other sizes and options: each method written out from its description, in straight lines, on a plain ViT.

Nothing here calls the library: what these files compute is what the library is held to.
"""
