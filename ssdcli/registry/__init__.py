"""Models on disk: names, manifests, the local store and the recipes."""
