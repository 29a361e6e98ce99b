"""Native transformers backbones, and how they are kept in a folder."""
