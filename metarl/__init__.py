"""The code that all agents and environments share; imports neither `envs` nor `agents`.

`from metarl import adapt` runs the agent of a run in an environment of your own.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metarl.evaluation.adapt import adapt

__version__ = "0.1.0"
__all__ = ["adapt"]


def __getattr__(name: str) -> Any:
    """Imports a public name on first use, so that `import metarl` stays fast."""
    if name == "adapt":
        from metarl.evaluation.adapt import adapt

        return adapt
    raise AttributeError(f"module 'metarl' has no attribute {name!r}")
