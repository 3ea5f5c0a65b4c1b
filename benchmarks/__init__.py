"""Programs that measure, compare and attack; run each with `python -m benchmarks.NAME`."""
