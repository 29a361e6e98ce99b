"""A person's files to documents, documents to tokens, tokens to training windows."""

from __future__ import annotations
