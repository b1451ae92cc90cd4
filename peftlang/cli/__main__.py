"""`python -m peftlang.cli` is `peftlang`."""

from peftlang.cli.app import main

raise SystemExit(main())
