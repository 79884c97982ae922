"""Who may import whom, which files are built, how long they may be.

Layers, from the ground up; a module imports only from layers below its own (or its own layer, without cycles), also
inside functions. What crosses upwards on purpose is listed in UPWARDS with its reason.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "processing"
CORE = ROOT / "core"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"counters", "errors", "framing", "spinning", "pz"}),  # pz.pxd: the declarations of the core
    frozenset({"_failures"}),  # says in words what the extension modules met
    frozenset({"_native", "_wire"}),  # also makes the base type of handles (_handle.h)
    frozenset({"_program"}),
    frozenset({"util", "reduction"}),
    frozenset({"managedbase"}),
    frozenset({"managedqueue", "managedsync"}),  # pure state machines
    frozenset({"_sync", "_message", "_posixqueue", "keys"}),
    frozenset({"_ring", "_memory", "_store"}),
    frozenset({"_channel", "_cells", "_key", "fdkeeper"}),
    frozenset({"_dict", "_sequence", "_segments"}),
    frozenset({"groups"}),
    frozenset({"synchronize", "memory"}),
    frozenset({"queues", "queueends", "doorbell", "posixqueue", "values", "arrays", "sharing"}),
    frozenset({"heap", "resource_sharer"}),
    frozenset({"nesting"}),
    frozenset({"mappings", "sets", "sequences"}),
    frozenset(
        {"authentication", "tlssocket", "socketaddresses", "socketline", "socketreader", "socketconnection"}
    ),
    frozenset({"client", "listener"}),
    frozenset({"connection", "containers", "sharedctypes"}),
    frozenset({"_this"}),
    frozenset(
        {"_this", "process", "spawn", "popen_fork", "popen_spawn_posix", "forkserver", "popen_forkserver"}
    ),
    frozenset({"descriptors", "resource_tracker"}),
    frozenset({"supervisionmessages", "cgroups", "workerprocesses"}),
    frozenset({"supervision"}),
    frozenset({"supervisor", "currentworker", "logrelay", "stackdump", "timeline", "workersettings"}),
    frozenset({"remote", "blame", "_pool", "progress"}),
    frozenset({"jobs", "_calls", "_collect", "_work"}),
    frozenset({"worker"}),
    frozenset({"feeding", "results", "threadengine"}),
    frozenset({"engine"}),
    frozenset({"iterators", "futures"}),
    frozenset({"poolqueues"}),
    frozenset({"submission"}),
    frozenset({"poolviews"}),
    frozenset({"pool"}),
    frozenset({"executor", "dummy"}),
    frozenset({"local", "shared_memory"}),
    frozenset({"managerprotocol"}),
    frozenset({"managerchannels", "managerforks"}),
    frozenset({"managerclient"}),
    frozenset({"proxies"}),
    frozenset({"managertypes", "managerasync"}),
    frozenset({"managerposts"}),
    frozenset({"managerobjects", "managedvalues", "managerpeers", "managercalls"}),
    frozenset({"managertraffic", "managerserver"}),
    frozenset({"segmentmanager", "managers"}),
    frozenset({"context"}),
    frozenset({"standardnames", "standin"}),
    frozenset({"joblib"}),
    frozenset({"standinkept"}),
    frozenset({""}),  # processing/__init__.py: the public names
    frozenset({"cli", "__main__"}),
)

# (importer, imported): why this one may point upwards. Such an import is inside a function, never at the top.
UPWARDS: dict[tuple[str, str], str] = {
    (
        "managerprotocol",
        "managers",
    ): "pickles of the standard library name its classes; ours of those names are there",
    ("proxies", "managers"): "the proxy type of a result is looked up in the registry of a manager",
    (
        "managers",
        "context",
    ): "a manager without a context takes the default one, and so does a pool in its server",
    ("_failures", "_program"): "an out-of-memory message says how much is in use",
    ("_message", "arrays"): "arrays that look into shared memory are sent as such from then on",
    ("_sequence", "nesting"): "containers in a slice that is assigned become shared ones",
    ("_store", "containers"): "a value that is a container is given back as a handle of its class",
    ("_store", "groups"): "`with container:` begins a group",
    ("_store", "sharing"): "a large value is given back through what share() makes",
    ("engine", "context"): "the start method of a pool that was not told one",
    ("executor", "context"): "how many CPUs there are; contexts of multiprocessing are translated",
    ("pool", "context"): "how many CPUs there are",
    ("workersettings", "context"): "how many CPUs there are",
    ("reduction", "descriptors"): "outside of the start of a process, descriptors go with messages",
    ("poolqueues", "pool"): "the exception for unpicklable results is there",
    ("remote", "pool"): "the standard library has its exception for unpicklable results there",
    ("synchronize", "process"): "the repr of a lock names the process that holds it",
}

_NAMED = "connection context forkserver managers pool process queues reduction spawn synchronize util"
UPWARDS.update(
    {
        (module, "standardnames"): "names that only programs look for are made when asked"
        for module in _NAMED.split()
    }
)
UPWARDS["standin", "standinkept"] = "only for programs that use one of a few libraries"
UPWARDS.update({(module, "standin"): "a child does as its parent" for module in ("forkserver", "spawn")})

# Lines. At the limit, split by who owns the state.
LIMITS = {
    "core/**/*.[ch]": 600,
    "src/**/*.[ch]": 600,
    "src/**/*.p[yx][xd]": 400,
    "src/**/*.py": 500,
    "tests/**/*.py": 800,
    "tools/**/*.py": 500,
}

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not PACKAGE.is_dir(), reason="the source tree is not here"),
]


def module_of(path: Path) -> str:
    """The layer's name of a file: `queues`, `_ring`, `cli` for everything in cli/, `` for __init__."""
    relative = path.relative_to(PACKAGE)
    name = relative.parts[0] if len(relative.parts) > 1 else relative.stem
    return "" if name == "__init__" else name


def rank(module: str) -> int:
    for index, layer in enumerate(LAYERS):
        if module in layer:
            return index
    raise AssertionError(
        f"src/processing/{module}: not in any layer; add it to LAYERS in tests/test_layers.py, as low as it can be"
    )


def is_for_types_only(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports_of_python(path: Path) -> set[tuple[str, bool]]:
    """Modules of the package that a Python file imports, and whether at the top of the file."""
    found: set[tuple[str, bool]] = set()
    depth_of_package = len(path.relative_to(PACKAGE).parts)

    def record(target: str, names: list[str], top: bool) -> None:
        # target: dotted path below `processing`; "" is the package itself, whose names may be its modules.
        if target:
            found.add((target.split(".")[0], top))
            return
        for name in names:
            is_module = any(PACKAGE.glob(f"{name}.*")) or (PACKAGE / name).is_dir()
            found.add((name if is_module else "", top))

    def visit(node: ast.AST, top: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.stmt) and is_for_types_only(child):
                continue
            if isinstance(child, ast.Import):
                for alias in child.names:
                    if alias.name == "processing" or alias.name.startswith("processing."):
                        record(alias.name[len("processing.") :], [""], top)
            elif isinstance(child, ast.ImportFrom):
                names = [alias.name for alias in child.names]
                target = child.module or ""
                if child.level == 0:
                    if target == "processing" or target.startswith("processing."):
                        record(target[len("processing.") :], names, top)
                elif child.level == depth_of_package:
                    record(target, names, top)
                elif path.parent != PACKAGE:
                    pass  # within the sub-package: one layer
                else:
                    raise AssertionError(f"{path}: a relative import that leaves the package")
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            visit(child, top and not inside)

    visit(ast.parse(path.read_text()), True)
    return found


def imports_of_cython(path: Path) -> set[tuple[str, bool]]:
    found = set()
    pattern = re.compile(
        r"^(\s*)(?:from\s+(?:processing)?\.(\w+)\s+c?import|c?import\s+processing\.(\w+))", re.M
    )
    for indent, first, second in pattern.findall(path.read_text()):
        found.add((first or second, not indent))
    for indent, names in re.findall(
        r"^(\s*)from\s+(?:processing|\.)\s+c?import\s+([\w, ]+)", path.read_text(), re.M
    ):
        found.update((name.strip(), not indent) for name in names.split(","))
    return found


def sources() -> list[Path]:
    return sorted(path for suffix in ("py", "pyx", "pxd") for path in PACKAGE.rglob(f"*.{suffix}"))


def all_imports() -> dict[tuple[str, str], list[tuple[Path, bool]]]:
    edges: dict[tuple[str, str], list[tuple[Path, bool]]] = {}
    for path in sources():
        reader = imports_of_python if path.suffix == ".py" else imports_of_cython
        for target, top in reader(path):
            if target != module_of(path):
                edges.setdefault((module_of(path), target), []).append((path, top))
    return edges


def test_every_module_has_a_layer() -> None:
    for path in sources():
        rank(module_of(path))


def test_imports_point_downwards() -> None:
    wrong = []
    for (importer, imported), places in all_imports().items():
        if rank(imported) <= rank(importer):
            continue
        for path, top in places:
            if top or (importer, imported) not in UPWARDS:
                wrong.append(
                    f"{path.relative_to(ROOT)} imports processing.{imported}{' at its top' if top else ''}"
                )
    assert not wrong, "imports that point upwards (see LAYERS and UPWARDS):\n" + "\n".join(wrong)


def test_no_import_cycles() -> None:
    """Imports at the top of files: every module can be imported first."""
    graph: dict[str, set[str]] = {}
    for (importer, imported), places in all_imports().items():
        if any(top for _, top in places):
            graph.setdefault(importer, set()).add(imported)
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, "import cycle: " + " -> ".join([*trail, module])
        if module not in done:
            for following in sorted(graph.get(module, ())):
                walk(following, (*trail, module))
            done.add(module)

    for module in sorted(graph):
        walk(module, ())


def test_exceptions_of_the_layers_are_used() -> None:
    used = set(all_imports())
    assert not [pair for pair in UPWARDS if pair not in used], "UPWARDS lists imports that are gone"


def test_the_core_knows_nothing_of_python() -> None:
    pattern = re.compile(r"#\s*include\s*[<\"](Python|pyconfig|cpython)", re.M)
    assert not [path for path in CORE.rglob("*.[ch]") if pattern.search(path.read_text())]


def listed_in(build_file: Path) -> str:
    """The text of a meson.build without its comments."""
    return re.sub(r"#.*", "", build_file.read_text())


def test_every_file_is_listed_in_the_build() -> None:
    package = listed_in(PACKAGE / "meson.build")
    core = listed_in(CORE / "meson.build")
    missing = []
    for path in [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.pyi")]:
        if f"'{path.relative_to(PACKAGE).as_posix()}'" not in package:
            missing.append(path)
    for path in [*PACKAGE.glob("*.pyx"), *PACKAGE.glob("_*.c")]:
        if f"'{path.stem}'" not in package and f"'{path.name}'" not in package:
            missing.append(path)
    for path in (CORE / "src").glob("*.c"):
        if f"'src/{path.name}'" not in core:
            missing.append(path)
    for path in (CORE / "tests").glob("test_*.c"):
        if f"'{path.stem.removeprefix('test_')}'" not in core:
            missing.append(path)
    assert not missing, "not listed in a meson.build, so not built or installed:\n" + "\n".join(
        map(str, missing)
    )


def test_files_stay_small() -> None:
    long = []
    for pattern, limit in LIMITS.items():
        for path in ROOT.glob(pattern):
            lines = len(path.read_text().splitlines())
            if lines > limit:
                long.append(f"{path.relative_to(ROOT)}: {lines} lines, the limit is {limit}")
    assert not long, "split by who owns the state:\n" + "\n".join(long)
