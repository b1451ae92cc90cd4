"""The compiler's passes: one file each, named by what the pass does."""
