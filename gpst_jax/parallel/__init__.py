"""Devices: meshes, sharding rules, the processes of a pod, and a table of chips."""
