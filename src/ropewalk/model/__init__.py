"""The door into transformers: load, extend, attend, loss, export. The only room that imports it."""
