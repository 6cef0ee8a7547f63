"""Recipes: settings and declarations of one's own data; not part of the library."""
