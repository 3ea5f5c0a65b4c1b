"""Pictures of physics: rendering, videos, and the replay that runs in a browser.

Scores and their pages are in `report`.
"""
