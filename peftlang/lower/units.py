"""Files and imports: which texts are read, and what their names stand for."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path, PurePosixPath

from peftlang.diagnostics import Source, Span, did_you_mean
from peftlang.lower.report import Place, Report
from peftlang.syntax import nodes as n
from peftlang.syntax import parse

MAX_FILES = 256
_LIBRARY = "library:"


@dataclass(eq=False)
class Unit:
    """One text: its tree, and what each name in it stands for.

    Attributes:
        folder: Where quoted imports are looked for: a folder on disk, or None.
        library: Whether it belongs to the standard library.
        names: Definitions, those that are imported included.
        readable: False after errors of syntax; nothing more is said of such a text.
    """

    source: Source
    tree: n.File
    folder: Path | None = None
    library: bool = False
    names: dict[str, "Definition"] = field(default_factory=dict)
    readable: bool = True

    def place(self, node: n.Node) -> Place:
        return Place(self.source, node.span)

    @property
    def own(self) -> Iterator["Definition"]:
        """What the text itself defines, in order."""
        for item in self.tree.items:
            if not isinstance(item, n.Import):
                yield Definition(self, item)


@dataclass(frozen=True)
class Definition:
    """A method or adapter, and the text that it is in."""

    unit: Unit
    node: n.Method | n.Adapter

    @property
    def name(self) -> str:
        return self.node.name.text

    @property
    def place(self) -> Place:
        return self.unit.place(self.node.name)

    def holds(self, source: Source, span: Span) -> bool:
        """Whether something is written inside the definition, not at a use of it."""
        own = self.node.span
        inside = own.start <= span.start and span.end <= own.end
        return source is self.unit.source and inside

    @property
    def doc(self) -> str:
        return self.node.docstring.text.strip() if self.node.docstring else ""


def library_names() -> list[str]:
    """Names of the specs of the standard library, sorted."""
    entries = files("peftlang.specs").iterdir()
    return sorted(e.name.removesuffix(".peft") for e in entries if e.name.endswith(".peft"))


def library_source(name: str) -> Source | None:
    """The text of a spec of the standard library, or None when there is none of that name."""
    if not name.isidentifier():
        return None
    entry = files("peftlang.specs").joinpath(f"{name}.peft")
    if not entry.is_file():
        return None
    return Source.from_bytes(f"{name}.peft", entry.read_bytes())


class Loader:
    """Reads a text and all that it imports, each file once.

    Args:
        report: Takes what is wrong.
    """

    def __init__(self, report: Report) -> None:
        self._report = report
        self._units: dict[str, Unit] = {}
        self._root: Path | None = None

    @property
    def units(self) -> tuple[Unit, ...]:
        """Every text that was read, the first one first."""
        return tuple(self._units.values())

    def load(self, source: Source, *, library: bool = False) -> Unit:
        """The unit of ``source``, with every import resolved where that is possible."""
        folder = source.path.parent if source.path else None
        self._root = folder.resolve() if folder else None
        first = self._parsed(source, folder, library)
        identity = self._identity(source, library)
        self._units[identity] = first
        self._walk(identity)
        for unit in self._units.values():
            self._name(unit)
        return first

    def _identity(self, source: Source, library: bool) -> str:
        if library:
            return _LIBRARY + source.name.removesuffix(".peft")
        return str(source.path.resolve()) if source.path else source.name

    def _parsed(self, source: Source, folder: Path | None, library: bool) -> Unit:
        tree, diagnostics = parse(source)
        self._report.extend(diagnostics)
        readable = not any(d.severity == "error" for d in diagnostics)
        return Unit(source, tree, folder, library, readable=readable)

    def _walk(self, start: str) -> None:
        """Read imports depth first, without recursion, so that a circle can be shown."""
        done: set[str] = set()
        path: list[str] = [start]
        pending = [self._imports(start)]
        while pending:
            step = next(pending[-1], None)
            if step is None:
                pending.pop()
                done.add(path.pop())
                continue
            target, place = step
            if target in path:
                self._circle(path[path.index(target) :], place)
            elif target not in done:
                path.append(target)
                pending.append(self._imports(target))

    def _imports(self, identity: str) -> Iterator[tuple[str, Place]]:
        unit = self._units[identity]
        for item in unit.tree.items:
            if isinstance(item, n.Import):
                target = self._target(unit, item)
                if target is not None:
                    yield target, unit.place(item.source)

    def _circle(self, identities: list[str], place: Place) -> None:
        shown = [self._units[identity].source.name for identity in identities]
        shown.append(shown[0])
        chain = " -> ".join(f"`{PurePosixPath(name).name}`" for name in shown)
        self._report.error("N108", f"these files import each other in a circle: {chain}", place)

    def _target(self, unit: Unit, item: n.Import) -> str | None:
        """The identity of the imported text, which is read when it is new."""
        if isinstance(item.source, n.Ident):
            return self._from_library(unit, item.source.text, unit.place(item.source))
        text, place = item.source.value, unit.place(item.source)
        if unit.library:
            return self._from_library(unit, text.removesuffix(".peft"), place)
        path = self._inside(unit, text, place)
        return None if path is None else self._from_file(path, text, place)

    def _from_library(self, unit: Unit, name: str, place: Place) -> str | None:
        identity = _LIBRARY + name
        if identity not in self._units:
            source = library_source(name)
            if source is None:
                beside = unit.folder is not None and (unit.folder / f"{name}.peft").is_file()
                advice = f'a file beside this one is named in quotes: `from "{name}.peft"`'
                self._report.error(
                    "N105", f"the standard library has no spec `{name}`", place,
                    help=advice if beside else did_you_mean(name, library_names()),
                )  # fmt: skip
                return None
            self._add(identity, self._parsed(source, None, library=True), place)
        return identity if identity in self._units else None

    def _inside(self, unit: Unit, text: str, place: Place) -> Path | None:
        """The path of a quoted import, when it is inside the root's folder."""
        outside = "\\" in text or "\0" in text or Path(text).is_absolute()
        if unit.folder is None and not outside and not _climbs(text):
            self._report.error(
                "N105", f"`{text}` cannot be found: this spec is in no file, so it has no folder",
                place, help="import from the standard library, or put the spec in a file",
            )  # fmt: skip
            return None
        path = None if outside else self._below_root(unit.folder, text)
        if path is None:
            self._report.error(
                "N106", f"`{text}` is outside of the spec's folder", place,
                help="a spec reads files of its own folder, of folders below it, and the "
                "standard library",
            )  # fmt: skip
        return path

    def _below_root(self, folder: Path | None, text: str) -> Path | None:
        """The path, unless links or `..` lead it out of the root's folder."""
        if folder is None or self._root is None:
            return None
        try:
            path = folder / text
            return path if path.resolve().is_relative_to(self._root) else None
        except (OSError, RuntimeError, ValueError):
            return None

    def _from_file(self, path: Path, text: str, place: Place) -> str | None:
        identity = str(path.resolve())
        if identity in self._units:
            return identity
        if not path.is_file():
            self._report.error("N105", f"there is no file `{text}`", place,
                               help=self._near(path))  # fmt: skip
            return None
        try:
            source = Source.from_file(path)
        except OSError as error:
            self._report.error("N105", f"`{text}` cannot be read: {error.strerror}", place)
            return None
        self._add(identity, self._parsed(source, path.parent, library=False), place)
        return identity if identity in self._units else None

    def _near(self, path: Path) -> str | None:
        try:
            with os.scandir(path.parent) as entries:
                beside = [entry.name for entry in entries if entry.name.endswith(".peft")]
        except OSError:
            return None
        return did_you_mean(path.name, beside)

    def _add(self, identity: str, unit: Unit, place: Place) -> None:
        if len(self._units) >= MAX_FILES:
            self._report.error("N105", f"more than {MAX_FILES} files are imported", place)
            return
        self._units[identity] = unit

    def _name(self, unit: Unit) -> None:
        """Fill in what the names of a unit stand for."""
        first: dict[str, Place] = {}
        for ident, definition in self._bindings(unit):
            place = unit.place(ident)
            if ident.text in first:
                self._report.error(
                    "N101", f"`{ident.text}` is defined twice in this file", place,
                    labels=[(first[ident.text], "first here")],
                )  # fmt: skip
                continue
            first[ident.text] = place
            if definition is not None:
                unit.names[ident.text] = definition

    def _bindings(self, unit: Unit) -> Iterator[tuple[n.Ident, Definition | None]]:
        for item in unit.tree.items:
            if not isinstance(item, n.Import):
                yield item.name, Definition(unit, item)
                continue
            target = self._known(unit, item)
            for name in item.names:
                found = self._imported(unit, target, name) if target else None
                yield name.alias or name.name, found

    def _known(self, unit: Unit, item: n.Import) -> Unit | None:
        if isinstance(item.source, n.Ident):
            return self._units.get(_LIBRARY + item.source.text)
        if unit.library:
            return self._units.get(_LIBRARY + item.source.value.removesuffix(".peft"))
        if unit.folder is None:
            return None
        try:
            return self._units.get(str((unit.folder / item.source.value).resolve()))
        except (OSError, RuntimeError, ValueError):
            return None

    def _imported(self, unit: Unit, target: Unit, name: n.ImportedName) -> Definition | None:
        own = {definition.name: definition for definition in target.own}
        wanted = name.name.text
        if wanted not in own and target.readable:
            has = ", ".join(f"`{found}`" for found in own) or "nothing"
            self._report.error(
                "N107", f"`{target.source.name}` does not define `{wanted}`",
                unit.place(name.name),
                help=did_you_mean(wanted, own) or f"it defines {has}",
            )  # fmt: skip
        return own.get(wanted)


def _climbs(text: str) -> bool:
    """Whether a relative path leads above where it starts."""
    depth = 0
    for part in PurePosixPath(text).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False
