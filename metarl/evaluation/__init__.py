"""Evaluation of adaptation: trials on held-out tasks, statistics and stored results.

Nothing here changes an agent or draws pictures.
"""
