"""The documentation that every CPython carries, as a corpus.

One document for each public class, function and method of the standard library that has a docstring, and one for each
language-reference topic of ``pydoc_data`` (what ``help("if")`` prints). Nothing is downloaded. The documents differ a
little between Python versions and platforms; their IDs (``json.dumps``, ``topic:with``) do not.
"""

from __future__ import annotations

import importlib
import inspect
import io
import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from types import ModuleType

# Modules that act when they are imported (open a browser, print, start a window), that are test suites or programs, or
# that were removed in a later Python: none is documentation that people search.
SKIPPED_MODULES = frozenset(
    {
        "antigravity",
        "this",
        "idlelib",
        "turtledemo",
        "test",
        "lib2to3",
        "pydoc_data",
        "ensurepip",
        "venv",
        "tkinter",
        "turtle",
        "distutils",
        "imp",
        "asynchat",
        "asyncore",
        "smtpd",
        "aifc",
        "audioop",
        "cgi",
        "cgitb",
        "chunk",
        "crypt",
        "imghdr",
        "mailcap",
        "msilib",
        "nis",
        "nntplib",
        "ossaudiodev",
        "pipes",
        "sndhdr",
        "spwd",
        "sunau",
        "telnetlib",
        "uu",
        "xdrlib",
        "nturl2path",
        "ntpath",
        "posixpath",
        "genericpath",
        "sre_compile",
        "sre_constants",
        "sre_parse",
    }
)
# Packages whose public classes and functions live in submodules that the package itself does not re-export.
SUBMODULES = (
    "collections.abc",
    "concurrent.futures",
    "concurrent.futures.thread",
    "concurrent.futures.process",
    "email.message",
    "email.parser",
    "email.policy",
    "email.utils",
    "email.header",
    "email.headerregistry",
    "encodings.idna",
    "html.parser",
    "html.entities",
    "http.client",
    "http.cookiejar",
    "http.cookies",
    "http.server",
    "importlib.abc",
    "importlib.machinery",
    "importlib.metadata",
    "importlib.resources",
    "importlib.util",
    "json.decoder",
    "json.encoder",
    "logging.config",
    "logging.handlers",
    "multiprocessing.connection",
    "multiprocessing.managers",
    "multiprocessing.pool",
    "multiprocessing.shared_memory",
    "os.path",
    "unittest.mock",
    "urllib.error",
    "urllib.parse",
    "urllib.request",
    "urllib.robotparser",
    "wsgiref.handlers",
    "wsgiref.headers",
    "wsgiref.simple_server",
    "wsgiref.util",
    "wsgiref.validate",
    "xml.dom.minidom",
    "xml.dom.pulldom",
    "xml.etree.ElementTree",
    "xml.sax.handler",
    "xml.sax.saxutils",
    "xml.sax.xmlreader",
    "xmlrpc.client",
    "xmlrpc.server",
    "curses.ascii",
    "curses.textpad",
    "ctypes.util",
    "asyncio",
)


def read_python_docs(min_chars: int = 60) -> list[dict]:
    """Return one record ``{"_id", "title", "text", "metadata"}`` a documented public name, then one a language topic.

    ``min_chars``: shorter docstrings ("Return self+value.") are left out; they say nothing that a query could be about.
    A function that several modules export, or that a subclass inherits, is one document, under the class and module
    that define it. The modules are imported in a fresh interpreter: importing them changes the process, and the process
    would change them (libraries replace parts of the standard library).

    Raises ``subprocess.CalledProcessError`` if that interpreter fails.
    """
    command = [sys.executable, "-I", "-X", "utf8", __file__, str(min_chars)]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, encoding="utf-8").stdout
    return [json.loads(line) for line in output.splitlines()]


def _documents(min_chars: int) -> Iterator[dict]:
    members = [
        member for name in _module_names() if (module := _import(name)) for member in _public_members(name, module)
    ]
    # own definitions first: what a class inherits belongs to the base class, unless that one is private
    members.sort(key=lambda member: member[3])
    documents = {}
    seen_objects: set[int] = set()
    seen_texts: set[str] = set()
    for qualified_name, kind, obj, _inherited in members:
        if id(obj) in seen_objects or qualified_name in documents:
            continue
        seen_objects.add(id(obj))
        doc = getattr(obj, "__doc__", None)
        text = inspect.cleandoc(doc).strip() if isinstance(doc, str) else ""
        if len(text) < min_chars or text in seen_texts:
            continue
        seen_texts.add(text)
        documents[qualified_name] = {
            "_id": qualified_name,
            "title": qualified_name,
            # the signature last: first comes what a person, or a language model, should read first
            "text": f"{text}\n\n{signature}" if (signature := _signature(obj)) else text,
            "metadata": {"kind": kind, "module": qualified_name.split(".", 1)[0]},
        }
    yield from (documents[name] for name in sorted(documents))
    yield from _language_topics()


def _module_names() -> list[str]:
    names = {n for n in sys.stdlib_module_names if not n.startswith("_") and n not in SKIPPED_MODULES}
    # builtins first, so that `builtins.open` is not filed under the modules that re-export it
    return ["builtins", *sorted((names | set(SUBMODULES)) - {"builtins"})]


def _import(name: str) -> ModuleType | None:
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError:  # not built on this platform (winreg, curses, dbm.gnu, ...)
        return None


def _public_members(module_name: str, module: ModuleType) -> Iterator[tuple[str, str, object, bool]]:
    """Yield (qualified name, kind, object, inherited) for the functions, the classes and their methods."""
    exported = getattr(module, "__all__", None)
    for name in sorted(exported if exported is not None else vars(module)):
        try:
            member = getattr(module, name)
        except AttributeError:  # an __all__ that promises more than the platform has
            continue
        is_class = inspect.isclass(member)
        if name.startswith("_") or not (is_class or inspect.isroutine(member)):
            continue
        if exported is None and getattr(member, "__module__", None) not in (module_name, f"_{module_name}", None):
            continue  # imported for the module's own use
        yield f"{module_name}.{name}", "class" if is_class else "function", member, False
        if is_class:
            for method_name in sorted(dir(member)):
                method = inspect.getattr_static(member, method_name, None)
                method = getattr(method, "__func__", method)  # classmethod, staticmethod
                if not method_name.startswith("_") and inspect.isroutine(method):
                    yield f"{module_name}.{name}.{method_name}", "method", method, method_name not in vars(member)


def _signature(obj: object) -> str:
    try:
        text = str(inspect.signature(obj))
    except Exception:  # inspect evaluates a built-in's text signature and lets any error of that through
        return ""
    # default values that print their address, or the interpreter's path, would give every process or machine another
    # corpus
    if " at 0x" in text or sys.executable in text or len(text) > 200:
        return ""
    return getattr(obj, "__name__", "") + text


def _language_topics() -> Iterator[dict]:
    from pydoc_data.topics import topics

    for name in sorted(topics):
        text = inspect.cleandoc(topics[name]).strip()
        title = text.split("\n", 1)[0].strip("* ")
        yield {
            "_id": f"topic:{name}",
            "title": title,
            "text": text,
            "metadata": {"kind": "topic", "module": "language reference"},
        }


if __name__ == "__main__":
    for document in _documents(int(sys.argv[1])):
        print(json.dumps(document))
