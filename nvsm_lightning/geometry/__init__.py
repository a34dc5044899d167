"""Viewpoints, cameras, rotations, meshes."""
