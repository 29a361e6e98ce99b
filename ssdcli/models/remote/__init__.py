"""Causal language models on other machines, behind OpenAI's API: what is asked of them, and what they answer."""

from __future__ import annotations
