"""Rewriting captions by an LLM: prompts, the servers and models that answer them, the checker."""
