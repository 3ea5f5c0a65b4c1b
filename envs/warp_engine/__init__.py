"""MuJoCo Warp: thousands of worlds of a scene stepped together on a GPU."""
