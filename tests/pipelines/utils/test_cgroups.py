"""Where the limits of this process's control groups are looked for."""

import pytest

from pipelines.utils.cgroups import cgroup_folders, read_if_there


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        # A line that cannot be understood: a look at the root harms nothing.
        ("nonsense\n", ["", "unified"]),
        ("0::/\n", ["", "unified"]),
        ("0::/a/b\n", ["a/b", "a", "", "unified/a/b", "unified/a", "unified"]),
        # Version 1: the line of the controller counts, which may share its folder with another.
        ("7:memory:/docker/x\n3:cpu,cpuacct:/y\n", ["memory/docker/x", "memory/docker", "memory"]),
    ],
)
def test_own_groups_and_all_around_them(tmp_path, text, wanted):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text(text)
    mount = tmp_path / "sys/fs/cgroup"
    assert cgroup_folders("memory", tmp_path) == [mount / name for name in wanted]


def test_a_file_that_is_not_there_is_empty(tmp_path):
    assert read_if_there(tmp_path / "absent") == ""
    (tmp_path / "limit").write_text("max\n")
    assert read_if_there(tmp_path / "limit") == "max\n"
