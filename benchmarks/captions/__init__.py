"""What the captions are like: statistics of their text, grammar errors, reuse of rewrites."""
