"""Memory layout of MuJoCo's C structs, from MuJoCo's own description of them."""

import ctypes
from functools import cache

from mujoco.introspect import ast_nodes
from mujoco.introspect.structs import STRUCTS


@cache
def struct_layout(name: str) -> type[ctypes.Structure]:
    """A C struct such as `mjModel`. Pointers are plain addresses."""
    plain = {
        "int": ctypes.c_int,
        "size_t": ctypes.c_size_t,
        "uint64_t": ctypes.c_uint64,
        "uintptr_t": ctypes.c_size_t,
        "float": ctypes.c_float,
        "mjtNum": ctypes.c_double,
        "mjtByte": ctypes.c_ubyte,
        "mjtSize": ctypes.c_int64,  # from MuJoCo 3.5 on
    }

    def c_type(declared):
        if isinstance(declared, ast_nodes.PointerType):
            return ctypes.c_void_p
        if isinstance(declared, ast_nodes.ArrayType):
            whole = c_type(declared.inner_type)
            for extent in reversed(declared.extents):
                whole = whole * extent
            return whole
        if isinstance(declared, ast_nodes.AnonymousStructDecl):
            return struct(declared)
        return plain.get(declared.name) or struct(STRUCTS[declared.name])

    def struct(declared):
        fields = [(f.name, c_type(f.type)) for f in declared.fields]
        return type("Struct", (ctypes.Structure,), {"_fields_": fields})

    return struct(STRUCTS[name])
