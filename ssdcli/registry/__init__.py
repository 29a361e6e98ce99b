"""Models on disk: names, manifests, the store, archives, recipes, and which models fit each other."""
