"""The measuring of what a decode step costs the host."""

import json
from pathlib import Path

import mlx.core as mx
import pytest

from benchmarks import host_step
from benchmarks.host_step import StepCost, launches_timed, shown


def test_only_the_time_within_launches_counts_as_launching() -> None:
    clock = iter([1.0, 1.5, 7.0, 7.25])
    original = mx.async_eval
    with launches_timed(lambda: next(clock)) as seconds:
        for value in (1, 2):
            mx.async_eval(mx.array(value) + 1)  # type: ignore[no-untyped-call]
    assert seconds == [0.5, 0.25]
    assert mx.async_eval is original


def test_the_hosts_share_is_python_and_launches_of_a_whole_step() -> None:
    cost = StepCost(rows=64, tokens=1200, step=12.0, python=1.8, python_least=1.5, launch=6.6)
    assert cost.host_share == pytest.approx(0.7)
    assert "host 70 %" in shown(cost, with_launches=True)
    assert "step" not in shown(cost, with_launches=False)


def test_a_toy_run_with_cudas_operations_leaves_its_figures_in_a_file(tmp_path: Path) -> None:
    target = tmp_path / "host.json"
    command = "--toy --backend cuda --rows 3 2 --steps 2 --dtype float32 --output"
    host_step.main([*command.split(), str(target)])
    content = json.loads(target.read_text(encoding="utf-8"))
    assert content["settings"]["backend"] == "cuda"
    assert [cost["rows"] for cost in content["milliseconds"]] == [3, 2]
    for cost in content["milliseconds"]:
        assert 0 < cost["python_least"] <= cost["python"]
        assert cost["launch"] > 0
        assert cost["step"] > 0
