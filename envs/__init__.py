"""Task distributions and the engines that step their environments."""

import envs.registration  # noqa: F401  (registers the benchmarks with Gymnasium)
