"""The C ABI of PKCS#11, read from the system's header: what the stubs, the lists and the Python side are made of.

The header is read once, by the C preprocessor and pycparser; everything else here is written from that declaration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pycparser import c_ast, c_generator, c_parser

if TYPE_CHECKING:
    from collections.abc import Iterator

FINISHED = 0x5031315400000000  # what Python adds to a return value; see start.c
FINISHED_MASK = 0xFFFFFFFF00000000
WITHOUT_PYTHON = ("C_GetFunctionList", "C_GetInterfaceList", "C_GetInterface")  # interface.c
BY_HAND = (*WITHOUT_PYTHON, "C_Initialize", "C_Finalize")  # start.c
PREFIXES = ("CK_", "_CK_", "ck_")

_render = c_generator.CGenerator().visit


class Function:
    """One function of the standard: `name` and its `parameters` as pairs of (declaration, name)."""

    def __init__(self, name: str, parameters: list[tuple[str, str]]) -> None:
        self.name = name
        self.parameters = parameters

    @property
    def declared(self) -> str:
        """Return the parameters as they are declared."""
        return ", ".join(declaration for declaration, _ in self.parameters)

    @property
    def passed(self) -> str:
        """Return the parameters as they are passed on."""
        return ", ".join(name for _, name in self.parameters)

    @property
    def python(self) -> str:
        """Return the prototype of the function that Python has to provide."""
        return f"uint64_t py_{self.name}({self.declared})"

    @property
    def stub(self) -> str:
        """Return the exported function."""
        return (
            f"CK_RV {self.name}({self.declared})\n"
            "{\n    int cancel = refuse_cancel();\n"
            "    CK_RV rv = CKR_CRYPTOKI_NOT_INITIALIZED;\n    if (ready) {\n"
            f"        rv = result(py_{self.name}({self.passed}));\n        wipe_stack();\n    }}\n"
            "    allow_cancel(cancel);\n    return rv;\n}\n"
        )


class Abi:
    """What the header declares that the C text `included` includes: the functions, the order of the lists, the types.

    `preprocessed` is what the C preprocessor makes of that text.
    """

    def __init__(self, included: str, preprocessed: str) -> None:
        self._included = included
        self._tree = c_parser.CParser().parse(preprocessed)
        declared = [function for function in self._functions() if function.name.startswith("C_")]
        self._by_name = {function.name: function for function in declared}
        self.order = self._list("CK_FUNCTION_LIST") or [function.name for function in declared]
        self.has_3_0 = bool(self._list("CK_FUNCTION_LIST_3_0"))
        added = [name for name in self._by_name if name not in self.order]
        self.order_3_0 = self._list("CK_FUNCTION_LIST_3_0") or [*self.order, *added]
        self._lists = (
            ("2_40", "CK_FUNCTION_LIST", self.order),
            ("3_0", "CK_FUNCTION_LIST_3_0", self.order_3_0),
        )

    def _functions(self) -> Iterator[Function]:
        for node in self._tree.ext:
            if isinstance(node, c_ast.Decl) and isinstance(node.type, c_ast.FuncDecl):
                yield Function(node.name, [(_render(one), one.name) for one in node.type.args.params])

    def _list(self, typedef: str) -> list[str]:
        """Return the names in a structure of function pointers, in order; none if there is no such type."""
        for tag in self._tags(typedef):
            for node in self._tree.ext:
                if isinstance(node, c_ast.Decl) and isinstance(node.type, c_ast.Struct) and node.type.name == tag:
                    members = [member.name for member in node.type.decls or ()]
                    if members:
                        return [name for name in members if name.startswith("C_")]
        return []

    def _tags(self, typedef: str) -> Iterator[str]:
        for node in self._tree.ext:
            if isinstance(node, c_ast.Typedef) and node.name == typedef and isinstance(node.type, c_ast.TypeDecl):
                yield node.type.type.name

    @property
    def functions(self) -> list[Function]:
        """Return all functions of 3.0 in the order of its list."""
        return [self._by_name[name] for name in self.order_3_0]

    @property
    def by_python(self) -> list[Function]:
        """Return the functions that Python has to provide."""
        return [function for function in self.functions if function.name not in WITHOUT_PYTHON]

    def _types(self) -> Iterator[Any]:
        """Return the declarations of types, but for those of the functions themselves."""
        for node in self._tree.ext:
            name = node.name if isinstance(node, c_ast.Typedef) else getattr(node.type, "name", None)
            if isinstance(node.type, c_ast.FuncDecl) or not name or not name.startswith(PREFIXES):
                continue
            if not name.startswith("CK_C_") or name.startswith("CK_C_INITIALIZE_ARGS"):
                yield node

    @property
    def cdef(self) -> str:
        """Return the declarations for cffi: the types of the header and the functions of Python."""
        lists = ("_CK_FUNCTION_LIST", "ck_function_list", "CK_FUNCTION_LIST")
        types = [
            _render(node) + ";"
            for node in self._types()
            if not (getattr(node.type, "name", None) or node.name or "").startswith(lists)
        ]
        functions = [function.python + ";" for function in self.by_python]
        return "\n".join(
            [
                *types,
                "#define FINISHED ...",
                'extern "Python+C" {',
                *functions,
                "uint64_t py_attached(void);",
                "}",
            ],
        )

    @property
    def header(self) -> str:
        """Return abi.h: the functions of the standard and of Python, the numbers, the function lists."""
        lines = [
            "/* Made by abi.py: the functions of PKCS#11, and those of Python that do their work. */",
            "#pragma once",
            "#include <stdbool.h>",
            "#include <stdint.h>",
            "#define CRYPTOKI_COMPAT",
            "#pragma GCC visibility push(default)",
            self._included,
            "#pragma GCC visibility pop",
            *(f"{function.python};" for function in self.by_python),
            "/* The number of functions that Python has, and FINISHED; to be called only if has_attached(). */",
            "uint64_t py_attached(void);",
            "bool has_attached(void);",
            "/* Makes the functions of Python ready to be called. 0, or -1. */",
            "int start_generated(void);",
            f"#define FUNCTIONS {len(self.by_python)}u",
            f"#define FINISHED UINT64_C({FINISHED:#x})",
            f"#define FINISHED_MASK UINT64_C({FINISHED_MASK:#x})",
        ]
        if not self.has_3_0:
            members = "".join(f"    __typeof__({name}) *{name};\n" for name in self.order_3_0)
            lines.append(
                f"typedef struct CK_FUNCTION_LIST_3_0 {{\n    CK_VERSION version;\n{members}}} CK_FUNCTION_LIST_3_0;",
            )
        lines += [f"extern const {type_} functions_{version};" for version, type_, _ in self._lists]
        return "\n".join(lines) + "\n"

    @property
    def source(self) -> str:
        """Return abi.c: the function lists, and the exported functions that are all alike."""
        parts = ['#include "abi.h"\n#include "start.h"\n#include "wiping.h"\n']
        for version, type_, names in self._lists:
            entries = "".join(f"    {name},\n" for name in names)
            numbers = version.replace("_", ", ")
            parts.append(f"const {type_} functions_{version} = {{\n    {{ {numbers} }},\n{entries}}};\n")
        return "\n".join([*parts, *(function.stub for function in self.functions if function.name not in BY_HAND)])

    @property
    def python_source(self) -> str:
        """Return what cffi's C file has besides that of cffi: the way to what is private in there."""
        return (
            '#include "abi.h"\n'
            "static struct _cffi_externpy_s _cffi_externpy__py_attached;\n"
            "bool has_attached(void)\n{\n    return _cffi_externpy__py_attached.reserved1;\n}\n"
            "int start_generated(void)\n{\n    return cffi_start_python();\n}\n"
        )

    @property
    def exports(self) -> str:
        """Return the linker's version script: the functions of the standard and nothing else."""
        names = "".join(f"    {function.name};\n" for function in self.functions)
        return f"{{\n  global:\n{names}  local:\n    *;\n}};\n"
