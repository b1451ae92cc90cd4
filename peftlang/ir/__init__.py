"""The typed IR: dimensions, types, expressions, methods, and the plan. Knows nothing of torch."""
