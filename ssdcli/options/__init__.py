"""What a user can set: fields that declare their default, check and help in one place."""

from __future__ import annotations
