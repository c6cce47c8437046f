"""Exports of trained networks, and the engines that run them in a prediction."""
