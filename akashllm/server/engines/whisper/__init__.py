"""Whisper through faster-whisper, in a supervised child: speech becomes text."""
