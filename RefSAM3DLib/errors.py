"""Errors a user can act on: each message names the value, the limit and the next step."""

from __future__ import annotations


class RefSAM3DError(Exception):
    """Base of every error that a user caused or can mend. The text is a complete sentence, safe to show as it is."""


class InputError(RefSAM3DError):
    """A volume, folder or region cannot be used: missing, unreadable, of the wrong shape, or with unusable voxels."""


class PromptError(RefSAM3DError):
    """A prompt is empty, too long or contains characters that no prompt has."""


class OutputError(RefSAM3DError):
    """A result cannot be written: the folder is missing or read-only, the file exists, or the disk is full."""


class CheckpointError(RefSAM3DError):
    """A weights or adapter file is missing, damaged, foreign, newer than this version, or does not fit its base."""


class ConfigError(RefSAM3DError):
    """A configuration has an unknown key or an impossible value."""


class DeviceError(RefSAM3DError):
    """The requested device is not there, failed its numerical self-check, or ran out of memory at the smallest tile."""


class MemoryRefusalError(DeviceError):
    """The computer's memory cannot hold a run, which was refused before it began or ended with the smallest tiles: another device would not help."""


class Cancelled(Exception):  # noqa: N818 - a request that was honoured, not an error
    """The user asked to stop. Deliberately not a :class:`RefSAM3DError`: nothing went wrong."""
