"""The fork server of one device: it imports an engine once, then every load is a fork of it.

What it forks is an *engine module*: anything importable with the functions of `server.Program`.
In the daemon only `client` is used; `server` and `child` run in the zygote and import nothing of asyncio.
"""
