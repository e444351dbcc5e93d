"""Secrets and personal data become typed, stable placeholders. Pure: no I/O, no clock, no randomness.

text.py                                              what stands around a place in a text
tokens.py, assignments.py, contacts.py, numbers.py   recognisers: a cheap look whether to look, then where
scan.py                                              all of them over many texts, as a policy wants
placeholders.py                                      which value has which number
redaction.py                                         an interaction, or a text, without them
"""
