"""Programs that measure, compare and attack: `python -m benchmarks.NAME` each."""
