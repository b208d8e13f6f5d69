"""Live nn.Modules: built without their weights, run once on stand-ins for tensors, read as a graph.

The only package that imports torch; nothing else imports it before a live module is asked for.
"""
