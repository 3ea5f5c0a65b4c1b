"""Pictures of physics: rendering, videos and the interactive replay in a browser.

Scores and their pages are in `report`.
"""
