"""Networks for normserve: fold their batch norms away, prove the fold, export them, and a small zoo of examples.

Nothing is imported here, so that a caller pays only for the module that it names.
"""
