"""Scripts that print the tables of BENCHMARKS.md and docs/lab: `python -m benchmarks` lists them."""
