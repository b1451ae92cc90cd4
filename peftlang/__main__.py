"""`python -m peftlang` is `peftlang`."""

from peftlang.cli import main

raise SystemExit(main())
