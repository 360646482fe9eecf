"""What a trained network can be asked: pure functions of networks and images.

Each analysis leaves the networks that it is given as they were.
"""
