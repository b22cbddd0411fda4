"""A real model server with a tiny model of random weights."""
