"""What a user sees: bars on a terminal of any width, lines in a log, nothing where it is to be quiet."""

import io
import re
import sys
import warnings

import pytest

from medfuse.core.reporter import Reporter

ERASE = "\x1b[2K"
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(params=[40, 60, 79, 80, 120, 200])
def terminal(request, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(request.param))
    monkeypatch.setenv("TERM", "xterm-256color")
    made = Terminal()
    made.columns = request.param
    return made


def a_training(reporter: Reporter) -> None:
    with reporter.track("drawing what is inside the network", 100) as advance:
        for done in range(0, 101, 20):
            advance(done, f"step {done}  loss 0.693  Dice 0.912 and more words than there is room for " * 2)
            reporter.say(f"said [b] at :smile: {done}")
            with reporter.track("validation", 2) as look:
                for case in (1, 2):
                    look(case, f"case_{case}")


def test_a_line_stands_by_itself_above_the_bars(terminal):
    a_training(Reporter(terminal))
    for done in range(0, 101, 20):
        assert re.search(rf"{re.escape(ERASE)}said \[b\] at :smile: {done}\n", terminal.getvalue())


def test_each_bar_is_one_line_whatever_the_width(terminal):
    a_training(Reporter(terminal))
    shown = CONTROL.sub("", terminal.getvalue().replace(ERASE, "\n").replace("\r", "\n"))
    assert max(map(len, shown.splitlines())) <= terminal.columns
    assert "validation" in shown
    assert "100%" in shown


def test_what_others_write_meanwhile_stands_by_itself_too(terminal, monkeypatch):
    monkeypatch.setattr(sys, "stderr", terminal)
    with Reporter().track("training", 10) as advance, warnings.catch_warnings():
        warnings.simplefilter("always")
        advance(1, "")
        print("a library says this", file=sys.stderr)
    assert re.search(rf"{re.escape(ERASE)}a library says this\n", terminal.getvalue())


def test_after_the_bars_lines_are_plain_again(terminal):
    reporter = Reporter(terminal)
    a_training(reporter)
    reporter.say("done")
    assert CONTROL.sub("", terminal.getvalue()).endswith("\ndone\n")


def test_a_bar_that_is_left_by_an_error_is_gone(terminal):
    reporter = Reporter(terminal)
    with pytest.raises(ZeroDivisionError), reporter.track("training", 1), reporter.track("validation", 1):
        _ = 1 / 0
    reporter.say("done")
    assert CONTROL.sub("", terminal.getvalue()).endswith("\ndone\n")


def test_a_terminal_that_cannot_erase_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    terminal = Terminal()
    with Reporter(terminal).track("training", 10) as advance:
        advance(10, "done")
    assert terminal.getvalue() == "  training: 100 %  done\n"


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("medfuse.core.reporter.time.monotonic", lambda: now[0])
    return now


def lines_of(clock, seconds: int, step: float = 1.0, **options) -> list[str]:
    log = io.StringIO()
    with Reporter(log, **options).track("training", seconds) as advance:
        for second in range(1, seconds + 1):
            clock[0] += step
            advance(second, "")
    return log.getvalue().splitlines()


def test_a_log_has_a_line_every_ten_seconds_at_first_and_few_in_the_long_run(clock):
    assert len(lines_of(clock, 60)) == 6
    hours = lines_of(clock, 12 * 3600)
    assert 600 < len(hours) < 12 * 60 + 60


def test_a_short_stage_inside_another_leaves_no_line_in_a_log(clock):
    log = io.StringIO()
    reporter = Reporter(log)
    with reporter.track("training", 10) as advance:
        for done in range(1, 11):
            with reporter.track("validation", 3) as look:
                for case in range(1, 4):
                    clock[0] += 1 if done < 10 else 12
                    look(case, "")
            advance(done, "")
    assert [line.split(":")[0].strip() for line in log.getvalue().splitlines()].count("validation") == 3
    assert log.getvalue().splitlines()[-1] == "  training: 100 %"


def test_the_end_of_a_stage_is_told_once(clock):
    log = io.StringIO()
    with Reporter(log).track("predicting", 2) as advance:
        for done in (1, 2, 2, 2):
            advance(done, "")
    assert log.getvalue().splitlines() == ["  predicting: 100 %"]


def test_a_quiet_one_says_nothing(terminal):
    a_training(Reporter(terminal, quiet=True))
    assert terminal.getvalue() == ""
