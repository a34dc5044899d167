"""The E-step of NVSM: synthesis at shifted poses, similarity, selection, pseudo labels."""
