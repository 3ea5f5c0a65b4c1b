"""Every test runs with the shapes and types in the signatures checked."""

import os

# Before torch is imported: the tests run in several processes, one core each.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from jaxtyping import install_import_hook

install_import_hook(["metarl", "envs", "agents", "train", "evaluate"], "beartype.beartype")
