"""Pose by render-and-compare on the similarity table: score, start grid, refinement, occlusion map."""
