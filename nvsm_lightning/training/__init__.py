"""Losses, EM schedule, the EM loop and its trainer."""
