"""Turns a page picture and a prompt into a model's inputs; numpy, no mlx.

`image` makes patches, `tokenizer` turns text into ids and back, `prompt` has the prompts that each model was
trained with, and `processor` puts the three together for one checkpoint folder.
"""
