"""The data of a training run: files to rows, rows to texts, and the parts of texts that are trained."""
