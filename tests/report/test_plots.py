"""The plots: which are made, what they draw, and that they can be read."""

from __future__ import annotations

import dataclasses
import string
import subprocess
import sys
import warnings
from importlib import import_module

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.text import Text
from PIL import Image

from tests.report.plot_data import LABELS, TASKS, plot_data
from tests.report.sweep import make_sweep
from vlm_eval.report.plots import PLOTS, write_plots
from vlm_eval.report.plots.heatmap import HATCH
from vlm_eval.report.plots.letters import drawable, shortened, width_cm
from vlm_eval.report.plots.paired import EQUIVALENT, SHOWN
from vlm_eval.report.plots.style import Look, settle, styled
from vlm_eval.report.plots.tradeoff import front
from vlm_eval.report.texts import LANGUAGES, Texts
from vlm_eval.report.write import write_report

ROWS = ("match_ratio", "paired", "facts", "rouge", "bleurt", "perplexity", "answer_length", "latency", "judge_order")
WITH_INTERVALS = {"match_ratio", "facts", "rouge", "bleurt", "perplexity", "judge_order"}
WITH_INTERVALS |= {"quality_latency", "quality_memory", "load"}
ODD = [  # names as people give them
    "a$b_$c",  # as a formula it would be an error
    "<b>bold</b> & co",
    "модель/путь_к_ней",
    "emoji 🚀",
    "emoji 🎉",
    "/a/very/long/path/to/a/checkpoint-" + "x" * 80 + " task.sampling.temperature=0.1",
    "_x",
    "half \ud83d",
    "Щ" * 60,
    "two\nlines",
    "",
]


def drawn(name: str, data, verdicts, language: str = "en"):
    """The plot's drawing, laid out; None where it is not made."""
    draw = getattr(import_module(f"vlm_eval.report.plots.{PLOTS[name]}"), name)
    with styled():
        drawing = draw(data, verdicts, Look(data.labels, Texts(language)))
        if drawing:
            settle(drawing.figure)
    return drawing


def texts(figure) -> list[Text]:
    """All that is written, without the numbers of ticks that lie outside their axis."""
    unseen = set()
    for axis in (axis for ax in figure.axes for axis in (ax.xaxis, ax.yaxis)):
        low, high = sorted(axis.get_view_interval())
        outside = [t for t in axis.get_major_ticks() if not (axis.axes.axison and low <= t.get_loc() <= high)]
        unseen |= {id(label) for tick in outside for label in (tick.label1, tick.label2)}
    return [t for t in figure.findobj(Text) if t.get_visible() and t.get_text().strip() and id(t) not in unseen]


def points(ax) -> dict[str, tuple[float, float]]:
    """label -> x and y of its mark."""
    lines = {c.get_label(): c.lines[0] for c in ax.containers}
    return {label: (line.get_xdata()[0], line.get_ydata()[0]) for label, line in lines.items()}


def names_of(ax) -> list[str]:
    return [t.get_text() for t in ax.get_yticklabels()]


@pytest.fixture(scope="module")
def sweep():
    return plot_data(items=12, failed=[LABELS[4]])


@pytest.fixture(scope="module")
def figures(sweep):
    return {name: drawn(name, *sweep).figure for name in PLOTS}


@pytest.mark.parametrize("language, items", [("ru", 158), ("en", 12)])
def test_all_plots_of_a_sweep_with_all_numbers(tmp_path, language, items):
    data, verdicts = plot_data(items=items)
    plots = write_plots(data, verdicts, tmp_path, Texts(language))
    assert [p.name for p in plots] == list(PLOTS)
    assert sorted(p.name for p in (tmp_path / "plots").iterdir()) == sorted(
        f"{n}.{x}" for n in PLOTS for x in ("png", "svg")
    )
    for plot in plots:
        with Image.open(plot.png) as picture:
            assert picture.width == int(17 / 2.54 * 200)  # 17 cm at 200 dpi
        assert plot.svg.stat().st_size < 150_000, plot.name
        assert plot.title and plot.caption and "{" not in plot.title + plot.caption
        whiskers = "Усы: 95 % интервал" if language == "ru" else "Whiskers: 95 % interval"
        assert (whiskers in plot.caption) == (plot.name in WITH_INTERVALS)
    assert sum(p.svg.stat().st_size for p in plots) < 1_500_000
    russian = plots[1].title == "Оценка ответа относительно оценки эталона"
    assert russian == (language == "ru")


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    data, verdicts = plot_data(LABELS[:2], items=6, tasks=("vqa",))
    made = [write_plots(data, verdicts, tmp_path / name, Texts("ru")) for name in ("a", "b")]
    for one, other in zip(*made):
        assert one.svg.read_bytes() == other.svg.read_bytes()
        assert one.png.read_bytes() == other.png.read_bytes()


def test_what_no_run_has_is_not_drawn_and_an_old_plot_is_taken_away(tmp_path):
    data, verdicts = plot_data(LABELS[:3], items=6)
    write_plots(data, verdicts, tmp_path, Texts("en"))
    gone = ("bleurt/", "facts/", "judge/position_bias", "judge/flip_rate", "tech/latency")
    for c in data.candidates:
        for name in [name for name in c.summary if name.startswith(gone)]:
            del c.run.summary[name]
        c.latencies.clear()
    plots = write_plots(data, dataclasses.replace(verdicts, pairs=[]), tmp_path, Texts("en"))
    lacking = {"bleurt", "facts", "judge_order", "latency", "quality_latency", "paired"}
    assert {p.name for p in plots} == set(PLOTS) - lacking
    assert {p.stem for p in (tmp_path / "plots").iterdir()} == set(PLOTS) - lacking
    assert not any("p50" in t.get_text() for t in texts(drawn("technical", data, verdicts).figure))


def test_a_sweep_without_any_number_has_no_plots(tmp_path):
    data, verdicts = plot_data(failed=LABELS)
    assert write_plots(data, verdicts, tmp_path, Texts("ru")) == []
    assert list((tmp_path / "plots").iterdir()) == []


def test_match_ratios_are_the_summaries_with_their_intervals_and_a_line_at_1(sweep, figures):
    data, _ = sweep
    for ax, task in zip(figures["match_ratio"].axes, TASKS, strict=True):
        assert [line.get_xdata() for line in ax.lines if list(line.get_ydata()) == [0, 1]] == [[1, 1]]
        runs = {c.label: c.summary for c in data.of(task) if c.ok}
        assert {label: x for label, (x, _) in points(ax).items()} == {
            k: s["judge/match_ratio"] for k, s in runs.items()
        }
        assert [y for _, y in points(ax).values()] == [0, 1, 2, 3, 5, 6, 7]  # the failed one's row stays empty
        for container in ax.containers:
            [[(low, _), (high, _)]] = container.lines[2][0].get_segments()
            summary = runs[container.get_label()]
            assert (low, high) == pytest.approx(
                (summary["judge/match_ratio_ci_low"], summary["judge/match_ratio_ci_high"])
            )


@pytest.mark.parametrize(
    "name, metrics",
    {
        "rouge": ["rouge/rouge1_f_mean", "rouge/rouge2_f_mean", "rouge/rougeL_f_mean"],
        "facts": ["facts/recall_mean", "facts/precision_mean", "facts/invented_rate"],
        "judge_order": ["judge/position_bias", "judge/flip_rate"],
    }.items(),
)
def test_metrics_stand_side_by_side_and_tasks_below_each_other(sweep, figures, name, metrics):
    data, _ = sweep
    panels = [(task, metric) for task in TASKS for metric in metrics]
    for ax, (task, metric) in zip(figures[name].axes, panels, strict=True):
        assert {k: x for k, (x, _) in points(ax).items()} == {c.label: c.summary[metric] for c in data.of(task) if c.ok}


def test_the_front_is_what_nothing_else_beats():
    assert front(
        {"a": (1, 1), "b": (2, 2), "c": (2, 1), "d": (3, 2), "e": (1, 1), "f": (0.5, 0.2), "g": (0.5, 0.1)}
    ) == [
        "f",
        "a",
        "e",
        "b",
    ]
    data, verdicts = plot_data(failed=[LABELS[4]])
    for c in data.candidates[2], data.candidates[-2]:
        c.summary.update({"tech/latency_s_p50": 3.0, "tech/weights_gib": 30.0})  # others are better and cost less
    for name, cost in (("quality_latency", "tech/latency_s_p50"), ("quality_memory", "tech/weights_gib")):
        for ax, task in zip(drawn(name, data, verdicts).figure.axes, TASKS, strict=True):
            found = {c.label: (c.summary[cost], c.summary["judge/match_ratio"]) for c in data.of(task) if c.ok}
            kept = {
                k for k, (x, y) in found.items() if all(a > x or b < y or (a, b) == (x, y) for a, b in found.values())
            }
            lines = {line.get_label(): line for line in ax.lines}
            step = lines["front"]
            assert step.get_drawstyle() == "steps-post"
            assert set(zip(step.get_xdata(), step.get_ydata())) == {found[label] for label in kept}
            assert {k: (lines[k].get_xdata()[0], lines[k].get_ydata()[0]) for k in found} == found
            hollow = {k for k in found if to_hex(lines[k].get_markerfacecolor()) == "#ffffff"}
            assert hollow == set(found) - kept
            assert 1 < len(kept) < len(found)


def test_load_is_a_line_a_run_through_its_levels_only_where_it_was_measured():
    data, verdicts = plot_data(LABELS[:3], items=6, failed=[LABELS[2]])
    sa, vqa = data.of("screen_annotation"), data.of("vqa")
    for c in vqa:
        for name in [name for name in c.summary if name.startswith("load/")]:
            del c.summary[name]
    for rate, seconds in ((0.5, 0.4), (2, 0.9)):
        name = f"load/r{rate:g}"
        sa[1].summary[f"{name}/output_tokens_per_s"] = 30.0 * rate
        sa[1].summary.update({f"{name}/latency_s_p50{end}": seconds for end in ("", "_ci_low", "_ci_high")})
    median, tail = drawn("load", data, verdicts).figure.axes
    for ax, quantile in ((median, "p50"), (tail, "p95")):
        for c in sa[:2]:
            closed, opened = [line for line in ax.lines if line.get_label() == c.label]
            for line, levels in ((closed, ("c1", "c4", "c16", "c64")), (opened, ("r0.5", "r2"))):
                there = [f"load/{level}" for level in levels if f"load/{level}/latency_s_{quantile}" in c.summary]
                assert list(line.get_xdata()) == [c.summary[f"{name}/latency_s_{quantile}"] for name in there]
                assert list(line.get_ydata()) == [c.summary[f"{name}/output_tokens_per_s"] for name in there]
            assert to_hex(closed.get_markerfacecolor()) != "#ffffff" == to_hex(opened.get_markerfacecolor())
        assert quantile in ax.get_xlabel()
    assert median.get_xlabel().endswith(f"no data: {LABELS[2]}")
    # The levels stand at the line that has all of them.
    assert {t.get_text() for t in median.texts} == {*LABELS[:2], "1", "4", "16", "64", "0.5/s", "2/s"}
    for c in sa[:2]:
        for name in [name for name in c.summary if "p95" in name and name.startswith("load/")]:
            del c.summary[name]
    drawing = drawn("load", data, verdicts)
    assert len(drawing.figure.axes) == 1 and "No p95" in drawing.caption
    for c in sa[:2]:
        for name in [name for name in c.summary if name.startswith("load/")]:
            del c.summary[name]
    assert drawn("load", data, verdicts) is None


def test_names_beside_points_cover_neither_each_other_nor_a_mark(figures):
    for name in ("quality_latency", "quality_memory"):
        figure = figures[name]
        for ax in figure.axes:
            boxes = [t.get_window_extent() for t in ax.texts]
            assert len(boxes) == len(LABELS) - 1
            assert not any(a.overlaps(b) for n, a in enumerate(boxes) for b in boxes[:n])
            marks = [ax.transData.transform(line.get_xydata()[0]) for line in ax.lines if line.get_label() in LABELS]
            assert not any(box.contains(*mark) for box in boxes for mark in marks)
            assert all(ax.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)


def test_marked_are_exactly_the_differences_shown_after_holm(sweep):
    data, verdicts = sweep
    pair = next(pair for pair in verdicts.pairs if pair.found)
    alone = dataclasses.replace(
        pair, found=dataclasses.replace(pair.found, p=0.03, p_holm=0.06)
    )  # not shown with others
    verdicts = dataclasses.replace(verdicts, pairs=[alone if p is pair else p for p in verdicts.pairs])
    task_of = {c.run.folder: (c.task, c.label) for c in data.candidates}
    found = {task_of[pair.point.run.folder]: pair.found for pair in verdicts.pairs}
    kinds = {None if f is None else f.shown for f in found.values()}
    assert kinds == {None, "none", "lower"}  # else this test shows nothing
    for ax, task in zip(drawn("paired", data, verdicts).figure.axes, TASKS, strict=True):
        said = {round(t.get_position()[1]): t.get_text() for t in ax.texts if t.get_position()[0] > 1}
        for row, label in enumerate(LABELS):
            comparison = found.get((task, label))
            if comparison is None:
                assert label not in points(ax)
                continue
            shown = comparison.shown != "none"
            [container] = [c for c in ax.containers if c.get_label() == label]
            assert points(ax)[label] == (comparison.difference, row)
            assert (to_hex(container.lines[0].get_markerfacecolor()) != "#ffffff") == shown
            assert (SHOWN in said[row]) == shown and (EQUIVALENT in said[row]) == comparison.equivalent
        upright = sorted(line.get_xdata()[0] for line in ax.lines if list(line.get_ydata()) == [0, 1])
        assert upright == [-0.05, 0, 0.05]
        assert "baseline" in [t.get_text() for t in ax.texts]


def test_order_colours_and_marks_are_the_same_everywhere(figures):
    for name in ROWS:
        for ax in figures[name].axes:
            assert names_of(ax) in (list(LABELS), [""] * len(LABELS))
            assert ax.get_ylim() == (len(LABELS) - 0.5, -0.5)
    colours, marks = {}, {}
    for name, figure in figures.items():
        artists = [(c.get_label(), c.lines[0]) for ax in figure.axes for c in ax.containers]
        artists += [(line.get_label(), line) for ax in figure.axes for line in ax.lines]
        artists = [(label, line) for label, line in artists if label in LABELS and line is not None]
        assert artists or name in ("technical", "item_heatmap")
        for label, line in artists:
            colours.setdefault(label, set()).add(to_hex(line.get_color()))
            marks.setdefault(label, set()).add(line.get_marker())
    assert set(colours) == set(LABELS) - {LABELS[4]}
    assert all(len(found) == 1 for found in (*colours.values(), *marks.values()))
    look = Look([str(n) for n in range(20)], Texts("ru"))
    assert len({(look.colours[label], look.markers[label]) for label in look.labels}) == 20
    [ax] = figures["technical"].axes
    drawn_marks = [(to_hex(line.get_color()), line.get_marker()) for line in ax.lines if line.get_marker() != "None"]
    look = Look(LABELS, Texts("en"))
    assert drawn_marks == [(to_hex(look.colours[label]), look.markers[label]) for label in LABELS] * len(TASKS)
    heads = [t.get_text() for t in figures["item_heatmap"].axes[0].get_xticklabels()]
    assert heads == list(LABELS)
    table = [t.get_text() for t in figures["technical"].axes[0].texts]
    assert [t for t in table if t in LABELS] == [*LABELS, *LABELS]


def test_a_failed_run_keeps_its_place_and_says_so(sweep, figures):
    for name in ROWS:
        for ax in figures[name].axes:
            rows = [t.get_position()[1] for t in ax.texts if t.get_text() == "no data"]
            assert rows == [4], name
    for name in ("quality_latency", "quality_memory"):
        assert all(ax.get_xlabel().endswith(f"no data: {LABELS[4]}") for ax in figures[name].axes)
    assert "Hatched" in drawn("item_heatmap", *sweep).caption
    assert "Hatched" not in drawn("item_heatmap", *plot_data(items=6)).caption


def test_the_heat_map_has_items_by_their_mean_and_holes_where_nothing_is(sweep):
    data, verdicts = sweep
    hard = data.candidates[0].items["item/3"].item_id
    for c in data.of("vqa"):
        if c.ok:
            c.judgements[:] = [
                dataclasses.replace(j, candidate_score=1.0) if j.item_id == hard else j for j in c.judgements
            ]
            c.__dict__.pop("matches", None)  # cached
    ax = drawn("item_heatmap", data, verdicts).figure.axes[1]
    table = np.ma.masked_invalid(ax.collections[0].get_array()).reshape(12, len(LABELS))
    assert ax.get_yticklabels()[0].get_text() == hard
    assert table.mask[:, 4].all() and not np.delete(table.mask, 4, axis=1).any()
    assert (np.diff(table.mean(axis=1)) >= 0).all()
    names = [t.get_text() for t in ax.get_yticklabels()]
    first = data.of("vqa")[0]
    assert table[:, 0].tolist() == pytest.approx([first.matches[n, 0][1] / first.matches[n, 0][2] for n in names])
    assert [p.get_hatch() for p in ax.patches] == [HATCH["hatch"]]


def test_distributions_show_every_answer(sweep, figures):
    data, _ = sweep
    for ax, task in zip(figures["answer_length"].axes, TASKS, strict=True):
        shown = {line.get_label(): sorted(line.get_xdata()) for line in ax.lines if line.get_label() in LABELS}
        assert shown == {c.label: sorted(len(a.text) for a in c.answers.values()) for c in data.of(task) if c.ok}
    slow, verdicts = plot_data(items=6, tasks=("vqa",))
    assert drawn("latency", slow, verdicts).figure.axes[0].get_xscale() == "linear"
    run = slow.candidates[1]
    run.latencies[0] = dataclasses.replace(run.latencies[0], latency_s=600.0)
    run.latencies[1] = dataclasses.replace(run.latencies[1], latency_s=None)
    [ax] = drawn("latency", slow, verdicts).figure.axes
    assert ax.get_xscale() == "log" and "logarithmic" in ax.get_xlabel()
    assert len([line for line in ax.lines if line.get_label() == run.label][0].get_xdata()) == 5


@pytest.mark.parametrize("language", LANGUAGES)
def test_letters_are_at_least_8_points_and_none_cover_another(language):
    data, verdicts = plot_data(items=40, failed=[LABELS[2]])
    for name in PLOTS:
        figure = drawn(name, data, verdicts, language).figure
        assert figure.get_figwidth() * 2.54 == pytest.approx(17)  # printed as large as drawn
        found = texts(figure)
        assert min(t.get_size() for t in found) >= 8
        boxes = {id(t): t.get_window_extent() for t in found}
        for n, one in enumerate(found):
            for other in found[:n]:
                pair = (one.get_text(), other.get_text())
                assert not boxes[id(one)].padded(-1).overlaps(boxes[id(other)].padded(-1)), (name, pair)
        everywhere = figure.bbox.padded(1)
        assert all(everywhere.x0 <= b.x0 and b.x1 <= everywhere.x1 and b.y1 <= everywhere.y1 for b in boxes.values()), (
            name
        )


def test_numbers_are_written_as_the_language_writes_them(sweep):
    for language, comma in (("ru", True), ("en", False)):
        for name in ("match_ratio", "quality_latency", "item_heatmap"):
            figure = drawn(name, *sweep, language).figure
            ticks = [t.get_text() for ax in figure.axes for t in (*ax.get_xticklabels(), *ax.get_yticklabels())]
            numbers = [t for t in ticks if t[:1] == "0" and len(t) > 1]
            assert numbers and all(("," in t) == comma and ("." in t) != comma for t in numbers)


def test_odd_names_neither_fail_nor_warn(tmp_path):
    data, verdicts = plot_data(ODD, items=6, tasks=("vqa",), failed=["_x"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots = write_plots(data, verdicts, tmp_path, Texts("ru"))
    assert [p.name for p in plots] == list(PLOTS)
    names = Look(ODD, Texts("ru")).names
    assert len(set(names.values())) == len(ODD)  # the two rockets too
    assert names["a$b_$c"].endswith("a$b_$c") and names["<b>bold</b> & co"].endswith("<b>bold</b> & co")
    shown = names_of(drawn("match_ratio", data, verdicts).figure.axes[0])
    assert shown == list(names.values())


def test_twenty_candidates_are_drawn_without_a_warning(tmp_path):
    data, verdicts = plot_data([f"модель/{n} gptq4" for n in range(20)], items=6, tasks=("vqa",))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots = write_plots(data, verdicts, tmp_path, Texts("ru"))
    assert [p.name for p in plots] == list(PLOTS)


@pytest.mark.parametrize("items", [1, 4])
def test_one_model_and_few_items_have_points_without_whiskers(tmp_path, items):
    data, verdicts = plot_data(["alone"], tasks=("vqa",), items=items)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plots = {p.name: p for p in write_plots(data, verdicts, tmp_path, Texts("en"))}
    assert set(plots) == set(PLOTS) - {"paired"}  # nothing to be held against
    assert "No whisker: no interval" in plots["match_ratio"].caption
    assert "No whisker: no interval" in plots["quality_memory"].caption
    [container] = drawn("match_ratio", data, verdicts).figure.axes[0].containers
    assert container.lines[2] == ()


def test_names_fit_their_width_and_keep_beginning_and_end():
    assert shortened(["short"], 4.0, 1) == ["short"]
    [long] = shortened(["/data/models/checkpoint_number-" + "x" * 90 + " seed=17"], 4.0, 3)
    assert long.count("\n") == 2 and long.startswith("/data/") and long.endswith("seed=17")
    assert all(width_cm(line) <= 4.0 for line in long.split("\n"))
    [line] = shortened(["Щ" * 90 + " seed=17"], 5.0, 1)
    assert "…" in line and line.endswith("seed=17") and width_cm(line) <= 5.0
    assert shortened(["a" * 99 + "b" * 99, "a" * 98 + "b" * 99], 3.0, 1)[0].startswith("1: ")
    assert drawable("ok 🚀\x00\n $") == "ok \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER} $"


def test_both_languages_have_the_same_words_with_the_same_blanks():
    def blanks(words):
        return {key: {field for _, field, *_ in string.Formatter().parse(text) if field} for key, text in words.items()}

    ru, en = (blanks(Texts(language).all["plots"]) for language in LANGUAGES)
    assert ru == en


def test_a_report_holds_its_plots(tmp_path):
    out = write_report(make_sweep(tmp_path / "s", quants=("gptq4", "bf16"), items=6), language="en")
    made = sorted(p.name for p in (out / "plots").glob("*.png"))
    assert "match_ratio.png" in made and "latency.png" not in made and "bleurt.png" not in made
    report, page = (out / "report.md").read_text(), (out / "index.html").read_text()
    assert "(plots/match_ratio.png)" in report and "clustered by screenshot" in report
    assert page.count('src="data:image/svg+xml;base64,') == len(made)


def test_nothing_that_draws_is_loaded_before_it_draws():
    code = "import sys, vlm_eval.report.write; print({'matplotlib', 'seaborn', 'pandas'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set()"
