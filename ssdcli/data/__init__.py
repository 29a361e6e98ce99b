"""From a person's files to documents, and from documents to tokens."""

from __future__ import annotations
