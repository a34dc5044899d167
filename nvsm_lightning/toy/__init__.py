"""The embedded synthetic set: procedural cars, and other categories for pre-training, rendered by the package itself."""
