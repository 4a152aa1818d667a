"""The other nodes: connections to them, frames and questions on these, and who gives signs of life."""
