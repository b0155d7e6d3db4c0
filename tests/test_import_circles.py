"""No module imports itself through others, imports for typing and imports inside functions included."""

from __future__ import annotations

import grimp
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def circles(imports: dict[str, set[str]]) -> set[tuple[str, ...]]:
    """Modules that import each other, directly or through others, each group sorted."""
    names = sorted(imports)
    at = {name: index for index, name in enumerate(names)}
    edges = [(at[name], at[other]) for name in names for other in imports[name]]
    rows, columns = zip(*edges, strict=True)
    graph = coo_matrix((np.ones(len(edges)), (rows, columns)), shape=(len(names), len(names)))
    count, groups = connected_components(graph, connection="strong")
    found = (tuple(names[index] for index in np.flatnonzero(groups == each)) for each in range(count))
    return {group for group in found if len(group) > 1}


def test_circles_are_found_by_hand() -> None:
    imports = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set[str]()}
    assert circles(imports) == {("a", "b", "c")}


def test_no_imports_run_in_circles() -> None:
    graph = grimp.build_graph("compress", cache_dir=None)
    found = circles({name: graph.find_modules_directly_imported_by(name) for name in graph.modules})
    assert found == set()
