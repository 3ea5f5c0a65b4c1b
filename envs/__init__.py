"""Task distributions and the engines that step their environments."""
