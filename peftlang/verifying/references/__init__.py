"""What a spec is compared with: a Python file, another spec, or another library's method."""
