"""Offscreen rendering of recorded states.

OpenGL back ends are probed, never assumed to work. Rendering happens in worker processes, as MuJoCo
chooses its OpenGL back end when it is first imported, and a bad driver can abort its process.
"""
