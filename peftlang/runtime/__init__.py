"""An adapted model: its parameters, its calls, and how it is kept on disk."""
