"""Values that processes share."""

from pipelines.distributed.collectives import of_all_ranks, part_of_rank


def test_one_process_has_one_part():
    assert of_all_ranks("a") == ["a"]
    assert part_of_rank(["a"], 0) == "a"
    assert part_of_rank(["a"], 1) is None
