"""How fast agents adapt: trials on held-out tasks, honest statistics, stored results.

Nothing here changes an agent, and nothing here draws.
"""
