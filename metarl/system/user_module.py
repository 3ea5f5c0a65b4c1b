"""A user's module, loaded by path or by name, in this process and in workers."""

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
from metarl.system.started import SCRIPTS

NOT_THEIRS = ("site-packages", "<frozen", sysconfig.get_path("stdlib"),
              str(SCRIPTS / "metarl"), str(SCRIPTS / "envs" / "worker"))  # fmt: skip
"""Parts of the paths of files that are not the user's; errors are not located in them."""


@dataclass(frozen=True)
class UserModule:
    """A reference to a module: a `.py` file, or a name that can be imported."""

    source: str
    path: Path = field(init=False, compare=False)
    """Absolute path of a file; relative ones are resolved when the object is created."""

    def __post_init__(self) -> None:
        try:
            path = Path(self.source).resolve()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL
            raise UserError(f"no module {printable(self.source)}: {printable(error)}") from None
        object.__setattr__(self, "path", path)

    @property
    def name(self) -> str:
        """Name of the module without its folder or package."""
        return Path(self.source).stem if self.is_file else self.source.rpartition(".")[2]

    @property
    def is_file(self) -> bool:
        """True if the module is given by its path."""
        return self.source.endswith(".py")

    @property
    def code(self) -> str:
        """The code that `loaded` executes: a file with its whole path, or the name of a module."""
        return str(self.path) if self.is_file else f"the module {self.source}"

    @cached_property
    def loaded(self) -> ModuleType:
        """The module, executed once.

        A file can import modules from its own folder, as if it were run as a script.

        Raises:
            UserError: the module does not exist, or fails when it is imported.
        """
        try:
            return self._load_file() if self.is_file else importlib.import_module(self.source)
        except UserError:
            raise
        except (Exception, SystemExit) as error:
            raise UserError(f"cannot import {self.source}: {describe(error)}") from error

    @property
    def content_hash(self) -> str | None:
        """SHA-256 of the module's file; None if it has no readable file. Modules that it imports
        are not included."""
        try:
            spec = None if self.is_file else importlib.util.find_spec(self.source)
            path = self.source if self.is_file else spec and spec.origin
            return hashlib.sha256(Path(path).read_bytes()).hexdigest() if path else None
        except (OSError, ImportError, ValueError):
            return None

    def __reduce__(self) -> tuple[type[UserModule], tuple[str]]:
        # A module cannot be sent to another process; it is executed again there.
        return UserModule, (self.source,)

    def _load_file(self) -> ModuleType:
        path = self.path
        if not path.is_file():
            known = [str(p) for p in sorted(path.parent.glob("*.py"))]
            raise UserError(f"no module {path}.{nearest(str(path), known)}")
        if str(path.parent) not in sys.path:
            sys.path.append(str(path.parent))
        # The module is named by its path, so that it cannot be confused with another; without
        # dots, which pickle would read as packages.
        spec = importlib.util.spec_from_file_location(str(path).replace(".", "·"), path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
        return module


def describe(error: BaseException) -> str:
    """An exception's name, message and place in the user's code; of a `UserError` the message."""
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
    except Exception as second:  # The message is made by the user's code, too.
        message = f"a message that fails itself with {type(second).__name__}"
    return printable(f"{type(error).__name__}: {printable(message)}{place}", limit=MESSAGE_LIMIT)
