"""Results for people: tables in the terminal, pictures and pages.

All numbers come from `evaluation`; none is computed here.
"""
