"""The layers of docs/architecture.md: imports go down, and only the shell knows Tornado."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "archibald_rt"

# From the bottom up: a module may import those above it in this list, never those below. A
# name ending in `.*` stands for a whole package, whose own modules are in order among
# themselves if none imports in a circle.
LAYERS = [
    "",
    "errors",
    "timestamps",
    "events",
    "revocations",
    "addresses",
    "rates",
    "tally",
    "limits",
    "shapes",
    "bodies",
    "emissions",
    "messages",
    "traffic",
    "answers",
    "questions",
    "sums",
    "controls",
    "measures",
    "protocol",
    "frames",
    "sse",
    "budget",
    "held",
    "recent",
    "eventlog.peers",
    "eventlog.base",
    "eventlog",
    "eventlog.transactions",
    "eventlog.epochs",
    "eventlog.files",
    "eventlog.schema",
    "eventlog.statements",
    "eventlog.pages",
    "eventlog.deleted",
    "eventlog.retention",
    "eventlog.revoked",
    "eventlog.pruning",
    "eventlog.sqlite",
    "eventlog.nats",
    "eventlog.nats.names",
    "eventlog.nats.jet",
    "eventlog.nats.consumers",
    "eventlog.nats.follower",
    "eventlog.nats.lateness",
    "eventlog.nats.marks",
    "eventlog.nats.asking",
    "eventlog.nats.arrivals",
    "eventlog.nats.state",
    "eventlog.nats.scanning",
    "eventlog.nats.minted",
    "eventlog.nats.appending",
    "eventlog.nats.reading",
    "eventlog.nats.definition",
    "eventlog.nats.engine",
    "eventlog.nats.credentials",
    "eventlog.nats.connecting",
    "eventlog.nats.opening",
    "eventlog.access",
    "eventlog.staging",
    "eventlog.ndjson",
    "eventlog.exported",
    "eventlog.copying",
    "eventlog.exporting",
    "eventlog.importing",
    "eventlog.inspection",
    "eventlog.checking",
    "eventlog.offline",
    "eventlog.nats.moved",
    "eventlog.nats.losses",
    "eventlog.nats.remote",
    "eventlog.nats.staging",
    "eventlog.nats.exporting",
    "eventlog.nats.importing",
    "eventlog.nats.inspection",
    "tracing",
    "ends",
    "writer",
    "session",
    "watcher",
    "tap",
    "relay",
    "hub",
    "commits",
    "line",
    "steps",
    "among",
    "order",
    "upkeep",
    "looplag",
    "census",
    "settings.*",
    "auth.*",
    "origins",
    "logs",
    "listen",
    "sockets",
    "requestids",
    "http1.*",
    "certificates",
    "fetch",
    "systemd",
    "shutdown",
    "sweep",
    "outbox",
    "transport",
    "websocket",
    "upgrade",
    "eventstream",
    "reception",
    "webhook",
    "device",
    "socketdevice",
    "revoking",
    "figures",
    "cluster",
    "drain",
    "streamdevice",
    "requestlog",
    "metrics",
    "scrape",
    "handlers.*",
    "specs.*",
    "app",
    "reload",
    "server",
    "service",
    "client.*",
    "emitter.*",
    "cli.*",
    "__main__",
]

# Bytes and values, no sockets: these run without Tornado.
CORE = [
    "errors",
    "timestamps",
    "events",
    "revocations",
    "addresses",
    "rates",
    "tally",
    "limits",
    "shapes",
    "bodies",
    "emissions",
    "messages",
    "traffic",
    "answers",
    "questions",
    "sums",
    "controls",
    "measures",
    "protocol",
    "frames",
    "sse",
    "budget",
    "held",
    "recent",
    "eventlog",
    "tracing",
    "ends",
    "writer",
    "session",
    "watcher",
    "tap",
    "relay",
    "hub",
    "commits",
    "line",
    "steps",
    "among",
    "order",
    "upkeep",
    "looplag",
    "census",
    "settings",
    "auth",
    "origins",
    "sweep",
    "specs",
]

# What stands alone, and all of ours that it may import besides itself.
ALONE = {
    "errors": set[str](),
    "timestamps": set[str](),
    "events": set[str](),
    "revocations": {"timestamps"},
    "addresses": set[str](),
    "rates": set[str](),
    "tally": set[str](),
    "limits": {"addresses", "rates", "tally"},
    "shapes": {"events"},
    "bodies": {"errors", "events", "shapes"},
    "messages": {"shapes"},
    "traffic": {"messages", "shapes"},
    "answers": {"messages", "shapes"},
    "questions": {"answers", "revocations"},
    "sums": {"answers", "questions"},
    "measures": {"messages"},
    "emissions": {"bodies", "errors", "events", "timestamps"},
    "controls": {"events", "messages", "timestamps"},
    "protocol": {"controls", "events", "messages", "timestamps"},
    "frames": {"errors", "protocol"},
    "sse": {"controls", "events", "messages", "timestamps"},
    "budget": set[str](),
    "held": {"budget", "protocol"},
    "recent": {"events"},
    "eventlog": {
        *("bodies", "emissions", "errors", "events", "revocations", "shapes", "timestamps"),
    },
    "tracing": {"eventlog", "events"},
    "ends": {"budget", "events", "measures"},
    "writer": {"ends", "events", "held", "protocol", "timestamps"},
    "session": {
        *(
            "ends",
            "errors",
            "eventlog",
            "events",
            "held",
            "messages",
            "protocol",
            "tracing",
            "writer",
        ),
    },
    "watcher": {"messages", "sse", "timestamps", "traffic"},
    "tap": {"errors", "events", "messages", "sse", "timestamps", "traffic", "watcher"},
    "relay": {"eventlog", "tap", "watcher"},
    "hub": {"eventlog", "events", "measures", "protocol", "recent", "session", "tap"},
    "looplag": {"measures"},
    "census": {"hub"},
    "settings": {"errors"},
    "auth": {"errors", "events"},
    "origins": set[str](),
    "specs": {"", "answers", "bodies", "errors", "events", "messages", "shapes", "traffic"},
    "logs": set[str](),
    "requestids": set[str](),
    "requestlog": {"requestids"},
    "sweep": set[str](),
    "outbox": {"budget", "sockets"},
    "systemd": {"errors"},
    "client": {"errors"},
    "emitter": {"errors"},
}


def modules() -> dict[str, Path]:
    """Return the package's modules by name, without the package's own."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        name = ".".join(parts).removesuffix("__init__").rstrip(".")
        found["__main__" if parts == ("__main__",) else name] = path
    return found


MODULES = modules()


def imported(path: Path) -> set[str]:
    """Return the names a file imports anywhere in it, in full."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are written in full"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                is_module = whole.removeprefix(f"{PACKAGE}.") in MODULES
                names.add(whole if is_module else node.module)
    return names


def of_ours(path: Path) -> set[str]:
    """Return the modules of this package that a file imports."""
    ours = {name for name in imported(path) if name.partition(".")[0] == PACKAGE}
    return {name.removeprefix(PACKAGE).lstrip(".") for name in ours}


def layers_of(module: str) -> Iterator[int]:
    for place, layer in enumerate(LAYERS):
        if layer == module or (
            layer.endswith(".*") and f"{module}.".startswith(layer.removesuffix("*"))
        ):
            yield place


def package_of(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_one_layer(module: str) -> None:
    assert len(list(layers_of(module))) == 1, f"say in LAYERS where {module} belongs"


def test_every_layer_has_a_module() -> None:
    used = {place for module in MODULES for place in layers_of(module)}
    assert [layer for place, layer in enumerate(LAYERS) if place not in used] == []


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_upward(module: str) -> None:
    (own,) = layers_of(module)
    for other in of_ours(MODULES[module]):
        (place,) = layers_of(other)
        inside = LAYERS[own].endswith(".*") and place == own
        assert place < own or inside, f"{module} imports {other}"


def test_no_module_imports_itself_by_a_detour() -> None:
    imports = {module: of_ours(path) for module, path in MODULES.items()}
    done: set[str] = set()

    def follow(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"a circle: {' > '.join((*way, module))}"
        if module not in done:
            for other in imports[module]:
                follow(other, (*way, module))
            done.add(module)

    for module in MODULES:
        follow(module, ())


@pytest.mark.parametrize("core", CORE)
def test_the_core_knows_no_tornado(core: str) -> None:
    members = [module for module in MODULES if package_of(module) == core]
    assert members
    for module in members:
        outside = {name.partition(".")[0] for name in imported(MODULES[module])}
        assert "tornado" not in outside, module


@pytest.mark.parametrize("alone", ALONE)
def test_what_stands_alone_imports_nothing_else_of_ours(alone: str) -> None:
    members = [module for module in MODULES if package_of(module) == alone]
    assert members
    for module in members:
        others = {package_of(other) for other in of_ours(MODULES[module])}
        assert others <= ALONE[alone] | {alone}, module


def test_the_only_sql_is_in_the_event_log() -> None:
    for module, path in MODULES.items():
        outside = {name.partition(".")[0] for name in imported(path)}
        if package_of(module) != "eventlog":
            assert not outside & {"sqlite3", "aiosqlite"}, module


@pytest.mark.parametrize(
    "script", sorted((ROOT / "scripts").rglob("*.py")), ids=lambda path: path.name
)
def test_scripts_know_the_documented_api_and_none_of_the_insides(script: Path) -> None:
    assert {package_of(module) for module in of_ours(script)} <= {"client", "emitter"}
