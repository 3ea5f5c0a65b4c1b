"""MuJoCo's C library stepped in batches, in threads, by compiled code."""
