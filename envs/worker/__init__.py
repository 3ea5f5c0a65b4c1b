"""What plays the environments of users, in worker processes too.

Every worker imports these modules, so they import nothing that takes long, above all not torch.
"""
