"""Long-context continued pretraining for Hugging Face models: corpus, positions, context parallelism, proof."""
