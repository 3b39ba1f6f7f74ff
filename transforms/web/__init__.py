"""The polite and safe HTTP client behind the Download stage: addresses, robots.txt, opt-outs,
name resolution, one exchange, one URL with its hops and retries, and the thread that runs it."""
