"""Denoising loss, bits per byte, and the weight at which an ensemble predicts best."""
