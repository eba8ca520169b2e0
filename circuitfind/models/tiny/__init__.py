"""The bundled model ``tiny``: a three-layer GPT-2 that solves the built-in ioi task. README.md says
what and how.
"""
