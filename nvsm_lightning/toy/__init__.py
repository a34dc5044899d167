"""The embedded synthetic set: procedural cars, and other categories for pre-training, drawn by the package itself."""
