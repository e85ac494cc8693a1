"""Makes the demo checkpoint: draws its pages, trains it, exports it and measures it.

Run in this order, each with `python -m tools.demo_model.NAME`:

    fetch_data   fonts, words and prose from Debian's packages into .data
    tokenizer    tokenizer.json and the other small files of the checkpoint's folder
    train        on one GPU with CUDA, in one call or in several
    export       the averaged weights as config.json and model.safetensors, blended with earlier ones if asked
    evaluate     the exam, through mlx_chandra on a CPU
    card         the model card with the exam's tables and the learning curve
    examples     examples/pages, drawn by the same renderer

The model card (src/mlx_chandra/demo/checkpoint/README.md) says how the shipped weights were trained. The
settings here are those of their last call.
"""
