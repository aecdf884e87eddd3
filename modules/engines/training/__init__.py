"""Train a LoRA: data, model, loop. The worker of a training run."""
