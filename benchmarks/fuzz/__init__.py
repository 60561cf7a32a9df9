"""Files that nobody thought of, through the real commands: ``python -m benchmarks.fuzz --count 3000 --seed 0``."""
