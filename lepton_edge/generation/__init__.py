"""Generating text with a decoder: choosing tokens, and the loop around its step."""
