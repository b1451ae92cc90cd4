"""From text to typed methods; no tensor library is loaded.

Each phase takes what the one before it made:

| phase | files |
|---|---|
| load: texts, and what their names stand for | `load` |
| flatten: adapters as one list of uses of methods | `flatten`, `arguments`, `constants` |
| declare: the clauses in force, and what names stand for at a site | `declare`, `scope` |
| type: each clause, by the table of builtins | `methods`, and `selectors`, `expressions`, \
 `tensors`, `inputs`, `compositions`, `contracts` |
| check: what no type says | `check` |
| print: one self-contained text | `print` |

`spec` runs them for a person's text, `build` for what is compiled. All of them report to `report`
and look at the syntax tree by `walk`.
"""

from peftlang.lower.build import build, open_method
from peftlang.lower.load import library_names
from peftlang.lower.report import SpecError
from peftlang.lower.spec import Entry, Spec, check, load

__all__ = ["Entry", "Spec", "SpecError", "build", "check", "library_names", "load", "open_method"]
