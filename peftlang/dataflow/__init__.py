"""What a captured graph computes: projections, attention products, residual branches.

Each file answers one question about a graph, locally and without knowing any architecture.
`peftlang.passes.roles` gives the answers their names.
"""
