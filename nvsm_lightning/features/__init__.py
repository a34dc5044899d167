"""Backbones, reading a feature map at projected vertices, and the vertex + clutter bank."""
