"""From a page picture and a prompt to the numbers a model takes; numpy, no mlx.

`image` makes patches, `tokenizer` turns text into ids and back, `prompt` knows what each model was taught to
be asked, and `processor` puts the three together for one checkpoint folder.
"""
