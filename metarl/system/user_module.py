"""A user's module: found by path or by name, in this process and in workers."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import sysconfig
import traceback
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType

from metarl.errors import MESSAGE_LIMIT, UserError, nearest, printable

OURS = Path(__file__).parents[2]
NOT_THEIRS = ("site-packages", "<frozen", sysconfig.get_path("stdlib"),
              str(OURS / "metarl"), str(OURS / "envs" / "worker"))  # fmt: skip
"""Files in which a user need not look for a mistake."""


@dataclass(frozen=True)
class UserModule:
    """Where a module is: a `.py` file, or a name that can be imported."""

    source: str
    path: Path = field(init=False, compare=False)
    """Of a file, from where the process was when it was named."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", Path(self.source).resolve())

    @property
    def name(self) -> str:
        """What it is called without its folder or package."""
        return Path(self.source).stem if self.is_file else self.source.rpartition(".")[2]

    @property
    def is_file(self) -> bool:
        """Whether it is given by its path."""
        return self.source.endswith(".py")

    @property
    def code(self) -> str:
        """The code that `loaded` executes: a file with its whole path, or the name of a module."""
        return str(self.path) if self.is_file else f"the module {self.source}"

    @cached_property
    def loaded(self) -> ModuleType:
        """The module, executed once.

        Modules beside a file can be imported by it, as if it was run as a script.

        Raises:
            UserError: it is not there, or fails when it is imported.
        """
        try:
            return self._load_file() if self.is_file else importlib.import_module(self.source)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(f"cannot import {self.source}: {describe(error)}") from error

    @property
    def content_hash(self) -> str | None:
        """SHA-256 of its file; None where it has none that can be read. Modules that it imports do
        not count."""
        try:
            spec = None if self.is_file else importlib.util.find_spec(self.source)
            path = self.source if self.is_file else spec and spec.origin
            return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else None
        except (OSError, ImportError, ValueError):
            return None

    def __reduce__(self) -> tuple[type[UserModule], tuple[str]]:
        # A module cannot be sent to another process; it is executed there anew.
        return UserModule, (self.source,)

    def _load_file(self) -> ModuleType:
        path = self.path
        if not path.is_file():
            known = [str(p) for p in sorted(path.parent.glob("*.py"))]
            raise UserError(f"no module {path}.{nearest(str(path), known)}")
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        # Named by its path, so that it cannot be taken for another module; without dots, which
        # pickle would take for packages.
        spec = importlib.util.spec_from_file_location(str(path).replace(".", "·"), path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module


def describe(error: BaseException) -> str:
    """An exception's name, message and place in the user's code; of ours the message."""
    if isinstance(error, UserError):
        return str(error)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not any(part in frame.filename for part in NOT_THEIRS)
    ]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    try:
        message = str(error)
    except Exception as second:  # It is code of the user's, too.
        message = f"a message that fails itself with {type(second).__name__}"
    return printable(f"{type(error).__name__}: {printable(message)}{place}", limit=MESSAGE_LIMIT)
