"""Code lengths and denoising losses of text, and the weights at which an ensemble predicts it best."""
