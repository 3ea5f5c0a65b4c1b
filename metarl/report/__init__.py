"""Results for people: tables in the terminal, pictures and pages.

Every number comes from `evaluation`; none is computed here.
"""
