"""What every agent and every environment shares; imports neither `envs` nor `agents`.

`from metarl import adapt` takes the agent of a run to an environment of yours.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl.evaluation.adapt import adapt

__version__ = "0.1.0"
__all__ = ["adapt"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for, and nothing before."""
    if name == "adapt":
        from metarl.evaluation.adapt import adapt

        return adapt
    raise AttributeError(f"module 'metarl' has no attribute {name!r}")
