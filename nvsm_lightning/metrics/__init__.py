"""Pose metrics: pure functions, bootstrap intervals, honest comparison rows, and one torchmetrics state."""
