from vitune.report.charts import HEIGHT, LEFT, MOST_POINTS, RIGHT, WIDTH, Series, line_chart, second_mark


def test_nothing_measured_draws_nothing() -> None:
    assert line_chart("Loss", [Series("a", []), Series("b", [(1, None)])]) is None


def test_a_gap_lifts_the_pen() -> None:
    chart = line_chart("Loss", [Series("a", [(1, 1.0), (2, 2.0), (3, None), (4, 1.0), (5, 1.5)])])
    assert chart is not None
    path = chart.lines[0].path
    assert (path.count("M"), path.count("L")) == (2, 2)
    assert len(chart.lines[0].dots) == 4


def test_everything_lies_inside_the_drawing() -> None:
    chart = line_chart("Accuracy", [Series("a", [(x, x / 30) for x in range(31)])], percent=True)
    assert chart is not None
    assert all(LEFT <= tick.position <= WIDTH - RIGHT for tick in chart.x_ticks)
    assert all(0 <= tick.position <= HEIGHT for tick in chart.y_ticks)
    assert chart.y_ticks[-1].label == "100 %", "a share has no ticks above one"


def test_a_single_epoch_is_a_dot() -> None:
    chart = line_chart("Loss", [Series("a", [(1, 0.5)]), Series("b", [(1, 0.6)]), Series("c", [(1, 0.7)])])
    assert chart is not None
    assert [len(line.dots) for line in chart.lines] == [1, 1, 1]


def test_many_lines_have_no_dots() -> None:
    chart = line_chart("Loss", [Series(str(i), [(1, 0.5), (2, 0.4)]) for i in range(3)])
    assert chart is not None
    assert [line.dots for line in chart.lines] == [(), (), ()]


def test_long_series_are_thinned_but_keep_their_end() -> None:
    chart = line_chart("lr", [Series("lr", [(x, 1.0 + x) for x in range(10_001)])], x_label="step")
    assert chart is not None
    assert 100 < len(chart.hits) <= MOST_POINTS + 1
    assert chart.hits[-1].text == "step 10,000\nlr 1e+04"


def test_hits_tell_all_values_at_an_epoch() -> None:
    chart = line_chart("Loss", [Series("train", [(1, 2.0), (2, 1.0)]), Series("val", [(1, 2.5), (2, None)])])
    assert chart is not None
    assert [hit.text for hit in chart.hits] == ["epoch 1\ntrain 2\nval 2.5", "epoch 2\ntrain 1"]


def test_the_description_holds_first_and_last_value() -> None:
    chart = line_chart("Accuracy", [Series("acc", [(1, 0.25), (9, 0.5)])], percent=True)
    assert chart is not None
    assert chart.description == "acc: 25.0\u00a0% at epoch 1, 50.0\u00a0% at epoch 9."


def test_the_mark_must_lie_in_the_chart() -> None:
    series = [Series("a", [(1, 1.0), (5, 2.0)])]
    inside, outside = line_chart("x", series, mark=(3, "best")), line_chart("x", series, mark=(7, "best"))
    assert inside is not None
    assert inside.mark is not None
    assert inside.mark.label == "best"
    assert outside is not None
    assert outside.mark is None


def test_colour_and_dash_together_tell_32_runs_apart() -> None:
    assert len({(number % 8, second_mark(number)) for number in range(32)}) == 32
