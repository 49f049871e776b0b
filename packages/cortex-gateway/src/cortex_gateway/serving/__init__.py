"""The gateway's processes: one or several, their sockets, their life."""
