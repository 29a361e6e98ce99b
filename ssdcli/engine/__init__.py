"""The shared torch engine: noise processes, denoisers, ensembles and the sampler."""
