"""Pictures of recorded states, drawn without a screen.

What draws is found out, never assumed. It happens in worker processes: MuJoCo chooses its OpenGL
back end when it is first imported, and a bad driver can abort the process that it is loaded into.
"""
