"""What all commands have in common: their help, their exit statuses, how a CT is read."""

import argparse
import re

import pytest

from pipelines.__main__ import main
from pipelines.cli.options import add_reading
from transforms.errors import DONE, FAILED, USAGE


def test_a_series_and_what_may_be_irregular_about_it():
    parser = argparse.ArgumentParser()
    add_reading(parser)
    given = parser.parse_args(["--series", "2", "--allow", "missing-slices", "uneven-spacing"])
    assert (given.series, given.allow) == ("2", ["missing-slices", "uneven-spacing"])


@pytest.mark.parametrize("command", ["check", "compare", "evaluate", "predict", "sync"])
def test_every_command_tells_its_exit_statuses(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == DONE
    told = re.sub(r"\s+", " ", capsys.readouterr().out.rpartition("exit status: ")[2])
    statuses = [int(number) for number in re.findall(r"(?:^|, )(\d) ", told)]
    assert statuses[0] == DONE
    assert statuses[-1] == USAGE
    assert set(statuses) <= {DONE, FAILED, USAGE}


@pytest.mark.parametrize("command", ["check", "compare", "evaluate", "predict", "sync"])
def test_an_option_that_does_not_exist_is_a_mistake_in_the_command(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--no-such-option"])
    assert caught.value.code == USAGE
    assert "error: " in capsys.readouterr().err
