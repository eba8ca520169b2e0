"""Models whose circuit is known, because they were made so; ``circuitfind bench truth`` measures
methods on them.
"""
