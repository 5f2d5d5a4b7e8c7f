"""Devices: meshes, sharding rules, multi-process runs, and a table of accelerators."""
