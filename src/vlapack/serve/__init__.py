"""A policy behind openpi's websocket protocol, so that no robot's client changes."""
