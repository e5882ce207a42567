"""Stable ordering by dependencies."""

from __future__ import annotations


def topological_sort(dependencies: dict[str, list[str]]) -> list[str]:
    """Order names so that each comes after the names it depends on.

    Names without a reason to move keep their order; unknown names and cycles are ignored.
    """
    visited: dict[str, None] = {}
    active: set[str] = set()

    def visit(name: str) -> None:
        if name in visited or name in active or name not in dependencies:
            return
        active.add(name)
        for other in dependencies[name]:
            visit(other)
        active.discard(name)
        visited[name] = None

    for name in dependencies:
        visit(name)
    return list(visited)
