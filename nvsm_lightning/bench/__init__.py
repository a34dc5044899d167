"""Benches: many fits run one after another or side by side, gathered into one table."""
