"""Files and imports: which texts are read, and what the names in each stand for."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path, PurePosixPath

from peftlang.diagnostics import Source, Span, did_you_mean, nearest
from peftlang.lower.report import Fault, Place, Report, SpecError
from peftlang.syntax import nodes as n
from peftlang.syntax import parse

MAX_FILES = 256


@dataclass(eq=False)
class Unit:
    """One text: its tree, and what each name in it stands for.

    Attributes:
        folder: Where quoted imports are looked for: a folder on disk, or None.
        library: Whether it belongs to the standard library.
        imports: What each of its imports reads; None for one that cannot be read.
        names: Definitions, those that are imported included.
        readable: False after errors of syntax; nothing more is said of such a text.
    """

    source: Source
    tree: n.File
    folder: Path | None = None
    library: bool = False
    imports: list[tuple[n.Import, "Unit | None"]] = field(default_factory=list)
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


def _kind(word: str) -> str:
    meant = nearest(word, n.TYPES) if word not in n.TYPES else [word]
    return meant[0] if meant else "int"


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

    @property
    def is_method(self) -> bool:
        return isinstance(self.node, n.Method)

    @property
    def kinds(self) -> dict[str, str]:
        """Type of every hyper-parameter; for a word that is none, what it was meant to be."""
        return {p.name.text: _kind(p.type.text) for p in reversed(self.node.parameters)}

    @property
    def doc(self) -> str:
        return self.node.docstring.text.strip() if self.node.docstring else ""

    def holds(self, source: Source, span: Span) -> bool:
        """Whether something is written inside the definition, not at a use of it."""
        own = self.node.span
        inside = own.start <= span.start and span.end <= own.end
        return source is self.unit.source and inside


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


def find_source(spec: str | Path) -> tuple[Source, bool]:
    """The text of a spec by its name, path or text, and whether it is the library's.

    Raises:
        SpecError: D601, there is no such spec, or it cannot be read.
    """
    if isinstance(spec, str) and ("\n" in spec or "{" in spec):
        return Source("<text>", spec), False
    library = library_source(spec) if isinstance(spec, str) else None
    if library is not None:
        return library, True
    path = Path(spec)
    try:
        if path.is_file():
            return Source.from_file(path), False
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot read `{spec}`: {error}", code="D601") from error
    message = f"there is no file `{spec}`, and no spec of that name in the standard library"
    raise SpecError(message, code="D601", help=did_you_mean(str(spec), library_names()))


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
        if library:
            identity = _of_library(source.name.removesuffix(".peft"))
        else:
            identity = str(source.path.resolve()) if source.path else source.name
        first = self._units[identity] = self._parsed(source, folder, library)
        self._follow(first)
        for unit in self.units:
            self._name(unit)
        return first

    def _parsed(self, source: Source, folder: Path | None, library: bool) -> Unit:
        tree, diagnostics = parse(source)
        self._report.extend(diagnostics)
        readable = not any(d.severity == "error" for d in diagnostics)
        return Unit(source, tree, folder, library, readable=readable)

    def _follow(self, start: Unit) -> None:
        """Read imports depth first, without recursion, so that a circle can be shown."""
        done: set[Unit] = set()
        path, pending = [start], [self._imports(start)]
        while pending:
            step = next(pending[-1], None)
            if step is None:
                pending.pop()
                done.add(path.pop())
                continue
            target, place = step
            if target in path:
                shown = [unit.source.name for unit in (*path[path.index(target) :], target)]
                chain = " -> ".join(f"`{PurePosixPath(name).name}`" for name in shown)
                message = f"these files import each other in a circle: {chain}"
                self._report.error("N108", message, place)
            elif target not in done:
                path.append(target)
                pending.append(self._imports(target))

    def _imports(self, unit: Unit) -> Iterator[tuple[Unit, Place]]:
        for item in unit.tree.items:
            if isinstance(item, n.Import):
                target = None
                with self._report.faults(unit.source):
                    target = self._target(unit, item.source)
                unit.imports.append((item, target))
                if target is not None:
                    yield target, unit.place(item.source)

    def _target(self, unit: Unit, node: n.Ident | n.String) -> Unit:
        """The imported text, which is read when it is new."""
        if isinstance(node, n.Ident):
            return self._from_library(unit, node.text, node)
        if unit.library:
            return self._from_library(unit, node.value.removesuffix(".peft"), node)
        return self._from_file(self._inside(unit, node), node)

    def _from_library(self, unit: Unit, name: str, node: n.Node) -> Unit:
        identity = _of_library(name)
        if identity in self._units:
            return self._units[identity]
        source = library_source(name)
        if source is None:
            advice = did_you_mean(name, library_names())
            if unit.folder is not None and (unit.folder / f"{name}.peft").is_file():
                advice = f'a file beside this one is named in quotes: `from "{name}.peft"`'
            raise Fault("N105", f"the standard library has no spec `{name}`", node, help=advice)
        return self._added(identity, source, None, library=True, node=node)

    def _inside(self, unit: Unit, node: n.String) -> Path:
        """The path of a quoted import, which is inside the root's folder."""
        text = node.value
        outside = "\\" in text or "\0" in text or Path(text).is_absolute()
        if unit.folder is None and not outside and not _climbs(text):
            message = f"`{text}` cannot be found: this spec is in no file, so it has no folder"
            advice = "import from the standard library, or put the spec in a file"
            raise Fault("N105", message, node, help=advice)
        path = None if outside else self._below_root(unit.folder, text)
        if path is None:
            advice = (
                "a spec reads files of its own folder, of folders below it, and the standard "
                "library"
            )
            raise Fault("N106", f"`{text}` is outside of the spec's folder", node, help=advice)
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

    def _from_file(self, path: Path, node: n.String) -> Unit:
        identity = str(path.resolve())
        if identity in self._units:
            return self._units[identity]
        if not path.is_file():
            raise Fault("N105", f"there is no file `{node.value}`", node, help=_near(path))
        try:
            source = Source.from_file(path)
        except OSError as error:
            message = f"`{node.value}` cannot be read: {error.strerror}"
            raise Fault("N105", message, node) from error
        return self._added(identity, source, path.parent, library=False, node=node)

    def _added(
        self, identity: str, source: Source, folder: Path | None, *, library: bool, node: n.Node
    ) -> Unit:
        if len(self._units) >= MAX_FILES:
            raise Fault("N105", f"more than {MAX_FILES} files are imported", node)
        unit = self._units[identity] = self._parsed(source, folder, library)
        return unit

    def _name(self, unit: Unit) -> None:
        """Fill in what the names of a unit stand for."""
        first: dict[str, Place] = {}
        for ident, definition in self._bindings(unit):
            place = unit.place(ident)
            if ident.text in first:
                message = f"`{ident.text}` is defined twice in this file"
                labels = [(first[ident.text], "first here")]
                self._report.error("N101", message, place, labels=labels)
                continue
            first[ident.text] = place
            if definition is not None:
                unit.names[ident.text] = definition

    def _bindings(self, unit: Unit) -> Iterator[tuple[n.Ident, Definition | None]]:
        targets = {id(item): target for item, target in unit.imports}
        for item in unit.tree.items:
            if not isinstance(item, n.Import):
                yield item.name, Definition(unit, item)
                continue
            target = targets[id(item)]
            for name in item.names:
                found = None
                with self._report.faults(unit.source):
                    found = _imported(target, name.name) if target else None
                yield name.alias or name.name, found


def _of_library(name: str) -> str:
    """What tells a spec of the standard library from a file of that name."""
    return f"library:{name}"


def _imported(target: Unit, name: n.Ident) -> Definition | None:
    own = {definition.name: definition for definition in target.own}
    if name.text not in own and target.readable:
        has = ", ".join(f"`{found}`" for found in own) or "nothing"
        message = f"`{target.source.name}` does not define `{name.text}`"
        advice = did_you_mean(name.text, own) or f"it defines {has}"
        raise Fault("N107", message, name, help=advice)
    return own.get(name.text)


def _near(path: Path) -> str | None:
    try:
        with os.scandir(path.parent) as entries:
            beside = [entry.name for entry in entries if entry.name.endswith(".peft")]
    except OSError:
        return None
    return did_you_mean(path.name, beside)


def _climbs(text: str) -> bool:
    """Whether a relative path leads above where it starts."""
    depth = 0
    for part in PurePosixPath(text).parts:
        depth += -1 if part == ".." else 1
        if depth < 0:
            return True
    return False
