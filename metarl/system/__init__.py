"""The system around a run: files, signals, processors, memory, random seeds, the command line.

Nothing here plays or learns.
"""
