"""Pages with an interactive 3-D view of recordings; making them needs no server, network or OpenGL.

The page draws the real meshes with WebGL, in the browser that opens it.
"""

from metarl.visual.replay.live import live_server, trial_after_trial
from metarl.visual.replay.page import write_replay

__all__ = ["live_server", "trial_after_trial", "write_replay"]
