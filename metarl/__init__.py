"""What every agent and every environment shares; imports neither `envs` nor `agents`."""

__version__ = "0.1.0"
