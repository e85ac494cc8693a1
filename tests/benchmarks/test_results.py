"""From an order to a table and a plot: what is asked for, kept, read back and shown."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from benchmarks.engines.base import EngineName
from benchmarks.machine import this_machine
from benchmarks.plot import batch_points, draw
from benchmarks.records import EngineRun, Order, ResultFile, run_from
from benchmarks.report import table
from benchmarks.roofline import Ceilings
from benchmarks.run import RESULTS, collect, in_own_process, orders, parse
from benchmarks.workloads import Workload

CEILINGS = Ceilings(1e11, 1e10, "float32")


def order(engine: EngineName = EngineName.OURS, batch: int = 4) -> Order:
    return Order(engine, Workload.W1, 2, True, None, "float32", batch, 64, None)


def run(engine: EngineName, seconds: float, batch: int = 4) -> EngineRun:
    return EngineRun(
        order(engine, batch), "OpenBLAS", None, seconds, 1.5 * seconds, (30, 40), ("", ""), 0.97, 39
    )


def test_a_sweep_measures_our_own_engine_at_the_other_batch_sizes() -> None:
    asked = orders(parse(["--engines", "ours", "--sweep", "1,8", "--batch", "8", "--workload", "W1"]), True)
    assert [(item.engine, item.batch) for item in asked] == [(EngineName.OURS, 8), (EngineName.OURS, 1)]


def test_a_gpu_gets_bfloat16_and_wider_batches() -> None:
    gpu = orders(parse(["--workload", "W1", "--engines", "ours"]), on_cpu=False)[0]
    assert (gpu.dtype, gpu.batch, gpu.pages, gpu.checkpoint) == ("bfloat16", 64, 64, None)


def test_an_unknown_engine_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["--engines", "ours,theirs"])
    assert "unknown engines: theirs" in capsys.readouterr().err


def test_a_file_of_results_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    file = collect([run(EngineName.OURS, 2.0), run(EngineName.MLX_VLM, 8.0)], CEILINGS)
    file.write(tmp_path / "results.json")
    assert ResultFile.read(tmp_path / "results.json") == file


@pytest.mark.parametrize("path", sorted(RESULTS.glob("W*.json")), ids=lambda path: path.stem)
def test_files_measured_with_earlier_versions_can_still_be_shown(path: Path) -> None:
    file = ResultFile.read(path)
    shown = table(file)
    assert all(result.run.order.engine.value in shown for result in file.results)


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text('{"form": 0}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"old\.json is of form 0"):
        ResultFile.read(tmp_path / "old.json")


def test_the_figures_are_the_runs_counts_over_its_seconds() -> None:
    (result,) = collect([run(EngineName.OURS, 2.0)], CEILINGS).results
    assert result.figures is not None
    assert (result.figures.pages_per_second, result.figures.output_tokens_per_second) == (1.0, 35.0)
    assert result.figures.roofline == pytest.approx(result.figures.ideal.seconds / 2.0)
    assert result.figures.ideal.steps == 39


def test_texts_that_differ_from_ours_are_counted_and_not_kept(tmp_path: Path) -> None:
    checkpoint = "src/mlx_chandra/demo/checkpoint"
    if not (Path(checkpoint) / "config.json").exists():
        pytest.skip("the demo checkpoint is not there")
    asked = replace(order(), workload=Workload.WD, checkpoint=checkpoint, toy=False)
    ours = replace(run(EngineName.OURS, 1.0), order=asked, texts=("a", "b"))
    theirs = replace(ours, order=replace(asked, engine=EngineName.MLX_VLM), texts=("a", "c"))
    kept = collect([ours, theirs], CEILINGS)
    assert [item.figures.differing for item in kept.results if item.figures] == [0, 1]
    assert all(item.run.texts == () and item.run.order.checkpoint == "checkpoint" for item in kept.results)
    assert "1 differ" in table(kept)


def test_an_engine_that_fails_is_named_in_the_table_beside_the_others() -> None:
    failed = EngineRun(order(EngineName.MLX_VLM), "", error="MemoryError: too many pages")
    shown = table(collect([run(EngineName.OURS, 2.0), failed], CEILINGS))
    assert "failed" in shown
    assert "mlx-vlm batch_generate failed: MemoryError: too many pages" in shown
    assert "97.0%" in shown


def test_the_machine_says_what_it_is() -> None:
    machine = this_machine()
    assert machine.cores >= 1
    assert machine.memory_bytes > 1 << 28
    assert machine.processor
    assert machine.backend in ("cpu", "cuda", "metal")


def test_a_plot_shows_engines_and_batch_sizes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    runs = [run(EngineName.OURS, 2.0), run(EngineName.MLX_VLM, 8.0), run(EngineName.OURS, 4.0, batch=1)]
    draw([collect(runs, CEILINGS)], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")


def test_batch_sizes_of_several_files_make_one_curve_and_more_pages_count_more() -> None:
    small = collect([run(EngineName.OURS, 8.0, batch=1), run(EngineName.OURS, 4.0, batch=2)], CEILINGS)
    both = [run(EngineName.MLX_VLM, 9.0, batch=2), run(EngineName.OURS, 1.0, batch=2)]
    large = collect(both, CEILINGS)
    large = replace(large, page_names=(*large.page_names, "one more"))
    ((one, two),) = batch_points([small, large])
    assert (one.batch, one.speed, one.pages) == (1, 0.25, 2)
    assert (two.batch, two.speed, two.pages) == (2, 2.0, 3)


def test_a_plot_of_one_run_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="several engines or batch sizes"):
        draw([collect([run(EngineName.OURS, 2.0)], CEILINGS)], tmp_path / "plot.png")


def test_our_engine_runs_in_a_process_of_its_own_and_every_page_gets_its_length() -> None:
    answered = in_own_process(order())
    assert answered.error is None
    (result,) = collect([answered], CEILINGS).results
    assert result.figures is not None
    assert result.figures.ideal.steps == answered.steps  # the roofline counts the steps that the engine makes
    assert run_from(json.loads(json.dumps(asdict(answered)))) == answered


def test_a_worker_that_fails_says_why() -> None:
    answered = in_own_process(replace(order(), dtype="float7"))
    assert answered.error is not None
    assert "float7" in answered.error
