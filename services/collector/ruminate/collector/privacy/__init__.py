"""Secrets and personal data become typed, stable placeholders. Pure: no I/O, no clock, no randomness.

redaction.py      an interaction, or a text, without them: where they are looked for, and what goes back
placeholders.py   which value has which number
policy.py         what a tenant wants found, and what it wants left alone
scan.py           every recogniser that a policy wants, and one answer where they overlap
tokens.py, assignments.py, contacts.py, numbers.py   recognisers: a cheap look whether to look, then where
text.py           what stands around a place in a text, and what only stands in for a value
"""
