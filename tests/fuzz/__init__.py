"""Coverage-guided fuzzing of the codec: one module for each invariant, which is its first line.

``python -m tests.fuzz`` (``make fuzz``) fuzzes for minutes and keeps what it finds; ``tests/wire/test_fuzz.py`` does so
for a minute in all. A target is a module with ``check(data)``, which raises ``AssertionError`` where its invariant does
not hold, ``SEEDS`` and ``TOKENS``; it needs no fuzzer, so that any input can be checked anywhere.
"""
