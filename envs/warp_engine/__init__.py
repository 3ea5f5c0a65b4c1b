"""MuJoCo Warp engine: steps thousands of worlds of a scene together on a GPU."""
