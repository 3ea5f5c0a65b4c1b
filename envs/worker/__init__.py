"""Players of users' environments, in this process or in workers.

Every worker imports these modules, so they must not import slow packages, above all not torch.
"""
