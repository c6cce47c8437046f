"""What a training says at its end."""

import shlex

from tests.pipelines import small


def test_the_commands_at_the_end_can_be_pasted(dataset, tmp_path, capsys):
    folder = tmp_path / "my bundle"
    small.run(small.config(folder, dataset, epochs=1))
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "evaluate.json" in line]
    assert shlex.split(line)[-3:] == [f"{folder}/evaluate.json", "--dataset_dir", str(dataset)]
