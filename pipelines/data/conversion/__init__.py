"""A dataset in another layout, made of links to the files of one: `python -m pipelines convert`."""
