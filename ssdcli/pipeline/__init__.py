"""From a person's text to a registered model: prepare, train, measure, register."""
