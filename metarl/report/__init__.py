"""Evaluations as a person reads them: on the terminal, as pictures, as one page."""
