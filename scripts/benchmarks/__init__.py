"""What `scripts/benchmark.py` measures, a module for each part of the software: `rows(quick)`
and `curves(quick)`.
"""
