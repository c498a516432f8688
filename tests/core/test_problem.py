from __future__ import annotations

import pytest

from userspace_proxy.core.problem import Problem


@pytest.mark.parametrize(
    ("problem", "text"),
    [
        pytest.param(
            Problem("web.yaml", "Service", "shop", "web", "spec.ports[0].port", "70000 is not a port"),
            "web.yaml: Service shop/web: spec.ports[0].port: 70000 is not a port",
            id="a field of an object",
        ),
        pytest.param(
            Problem("web.yaml", "Service", "shop", "web", "", "is too much"),
            "web.yaml: Service shop/web: is too much",
            id="a whole object",
        ),
        pytest.param(
            Problem("node.yaml", "Node", "", "node-1", "", "is too much"),
            "node.yaml: Node node-1: is too much",
            id="an object without a namespace",
        ),
        pytest.param(
            Problem("pod.yaml", "Pod", "", "", "kind", "Pod is not a kind that is read"),
            "pod.yaml: Pod: kind: Pod is not a kind that is read",
            id="an object without a name",
        ),
        pytest.param(
            Problem("web.yaml", "", "", "", "", "is no YAML"), "web.yaml: is no YAML", id="a whole file"
        ),
        pytest.param(Problem("", "", "", "", "", "is no JSON"), "is no JSON", id="nothing but a reason"),
    ],
)
def test_a_problem_says_where_it_is_before_it_says_what(problem: Problem, text: str) -> None:
    assert str(problem) == text
