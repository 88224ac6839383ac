"""Does vitune compute what the reference implementations computed? `python -m tests.parity FILE...`"""
