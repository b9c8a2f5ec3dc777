"""LightningModules: causal-language-model pretraining, LoRA and full supervised tuning."""
