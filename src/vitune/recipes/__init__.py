"""Recipes: settings that a publication reports, as data files with their source."""

from vitune.recipes.loading import Recipe, load_recipe, recipe_names

__all__ = ["Recipe", "load_recipe", "recipe_names"]
