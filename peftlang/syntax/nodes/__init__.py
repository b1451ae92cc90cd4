"""The abstract syntax of a `.peft` file: immutable, and equal when they say the same.

Spans, parentheses and comments do not take part in equality, so two texts that differ in
layout alone have equal trees.
"""

from peftlang.syntax.nodes.clauses import *
from peftlang.syntax.nodes.expressions import *
from peftlang.syntax.nodes.files import *
from peftlang.syntax.nodes.node import *
from peftlang.syntax.nodes.selectors import *
