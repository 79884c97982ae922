"""The programs of the introduction, in today's Python. They are run as scripts, and are not imported.

Nothing is joined that the introduction does not join. The comment lines at their heads are for our tools and are not
shown. starting.py, starting_pools.py and serving.py are the speed table's.
"""
