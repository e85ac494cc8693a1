"""Documents' files made of their pages' results: HTML, Markdown, JSON, text, Parquet and figures."""
