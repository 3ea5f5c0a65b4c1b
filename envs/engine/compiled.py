"""C callbacks compiled by Numba, with a disk cache keyed by their sources; raw memory access.

Numba's own disk cache checks only the file that defines a function, so editing a helper in another
file leaves stale machine code behind. Here every callback names all files that its code comes from,
and a hash of their content is part of its cache key.
"""

# pyright: reportAttributeAccessIssue=false, reportIncompatibleMethodOverride=false
# pyright: reportCallIssue=false
# Numba's type hints lack its cache's interface and some options of njit.

import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

import llvmlite
import numba
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile
from numba.core.ccallback import CFunc
from numba.core.typing.templates import Signature
from numba.extending import intrinsic

from metarl.system.cache import cache_folder

F = TypeVar("F", bound=Callable)


def content_stamp(sources: Sequence[str]) -> str:
    """Hash of the files' content and the compiler's version."""
    digest = hashlib.sha256()
    for part in (numba.__version__, llvmlite.__version__, sys.version):
        digest.update(part.encode())
    for path in sorted({*sources, __file__}):
        digest.update(_file_hash(path))
    return digest.hexdigest()


@cache
def _file_hash(path: str) -> bytes:
    return hashlib.sha256(Path(path).read_bytes()).digest()


class _Locator:
    """Location of one callback's compiled code."""

    def __init__(self, folder: Path, py_file: str):
        self._folder = str(folder)
        self._py_file = py_file

    def get_cache_path(self) -> str:
        return self._folder

    def ensure_cache_path(self) -> None:
        os.makedirs(self._folder, exist_ok=True)


class _CallbackCacheImpl(CompileResultCacheImpl):
    def __init__(self, locator: _Locator, lineno: int):
        self._locator = locator
        self._lineno = lineno


class _CallbackCache(FunctionCache):
    """Numba's function cache, keyed by a name and the content of the sources."""

    def __init__(self, function: Callable, *, name: str, stamp: str):
        folder = cache_folder() / "code" / stamp[:16]
        code = function.__code__
        self._name = name
        self._py_func = function
        self._impl = _CallbackCacheImpl(_Locator(folder, code.co_filename), code.co_firstlineno)
        self._cache_path = str(folder)
        self._cache_file = IndexDataCacheFile(
            cache_path=self._cache_path, filename_base=name, source_stamp=stamp
        )
        self.enable()

    def _index_key(self, sig, codegen):
        # The stamp covers the code; signature and processor remain.
        return sig, codegen.magic_tuple()


def compile_callback(
    function: Callable, signature: Signature, *, name: str, sources: Sequence[str]
) -> CFunc:
    """`function` compiled to a C function, loaded from the disk cache if it is there.

    Args:
        function: code in Numba's nopython subset.
        signature: its Numba signature.
        name: unique among the callbacks that share `sources`.
        sources: every file that the function's code comes from.

    Returns:
        The callback; its `address` is the C function. Keep it alive while the address is in use.
    """
    stamp = content_stamp(sources)
    function = renamed(inspect.unwrap(function), f"{name}_{stamp[:16]}")
    callback = CFunc(function, (signature.args, signature.return_type), locals={}, options={})
    callback._cache = _CallbackCache(function, name=name, stamp=stamp)
    try:
        callback.compile()
    except Exception:  # A damaged, unreadable or read-only cache must not stop a run.
        with suppress(OSError):
            callback._cache.flush()  # so that the next process writes it again
        callback._cache.disable()
        callback.compile()
    return callback


def renamed(function: Callable, name: str) -> Callable:
    """The function under a unique name, for functions that are generated at run time.

    Numba builds a symbol from a function's name and a counter that starts at 1 in every process. So
    two functions of the same name, one compiled here and one cached by another process, can have
    the same symbol; the linker then silently uses one for both.
    """
    function.__qualname__ = name
    return function


def inner(function: F) -> F:
    """`njit` for functions called only from compiled code; halves the compile time.

    The wrapper of a run-time type checker is removed.
    """
    return njit(no_cpython_wrapper=True, no_cfunc_wrapper=True)(inspect.unwrap(function))


@intrinsic
def pointer(typing_context, address, kind):
    """An address (int64) as a pointer to numbers of type `kind`, such as `types.float64`."""

    def build(context, builder, signature, args):
        return builder.inttoptr(args[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind.dtype)(types.int64, kind), build


@intrinsic
def fetch_add(typing_context, address, value):
    """Add atomically to the int64 at an address; returns the previous value."""

    def build(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", pointer, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), build


@intrinsic
def exchange(typing_context, address, value):
    """Set the int64 at an address atomically; returns the previous value."""

    def build(context, builder, signature, args):
        pointer = builder.inttoptr(args[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("xchg", pointer, args[1], "seq_cst")

    return types.int64(types.int64, types.int64), build


@intrinsic
def call4(typing_context, function, a, b, c, d):
    """Call the C function at an address with four pointers (int64); it returns nothing."""

    def build(context, builder, signature, args):
        return _call(context, builder, args)

    return types.void(*[types.int64] * 5), build


@intrinsic
def call6(typing_context, function, a, b, c, d, e, f):
    """Call the C function at an address with six pointers (int64); it returns nothing."""

    def build(context, builder, signature, args):
        return _call(context, builder, args)

    return types.void(*[types.int64] * 7), build


def _call(context, builder, args):
    function_type = ir.FunctionType(ir.VoidType(), [cgutils.intp_t] * (len(args) - 1))
    builder.call(builder.inttoptr(args[0], function_type.as_pointer()), args[1:])
    return context.get_dummy_value()
