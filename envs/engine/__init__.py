"""Batched, multi-threaded stepping of MuJoCo's C library in compiled code."""
