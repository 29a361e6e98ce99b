"""Readers, packing, the objective and the Trainer of small models."""
