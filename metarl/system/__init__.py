"""The machine around a run: files, signals, processors, random seeds, the command line.

Nothing here knows what a trial or an agent is.
"""
